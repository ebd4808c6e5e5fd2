//! Every operation of address spaces and of the service, stopped after each of its instructions
//! while another context of the CPU, or another CPU, uses the service and the pages: translations
//! are those of a plain model, no CPU uses one whose removal is complete, all frames come back, and
//! no waker is called where none may be.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod step_support;

use step_support::computer::{CPUS, KERNEL, on};
use step_support::scene::{
    ELSEWHERE, LARGE, MOVED, NEW_LARGE, NEW_SMALL, PENDING, SMALL, Scene, Ticket, at, kernel_page, large,
    small,
};
use topomem::{CpuPin, FrameRequest, Protection, VirtAddr};
use topomem_stepper::{Context, Matrix, Operation, Plan};

const READ_ONLY: Protection = Protection::USER_READ_ONLY;

/// An operation of CPU 0.
const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

/// Runs a change of page tables by CPU 0, which calls no waker.
fn change(scene: &Scene, act: impl FnOnce(&CpuPin)) {
    scene.quietly(|| on(0, act));
}

/// Waits for a ticket that the other CPUs have just answered.
fn finish(scene: &Scene, pin: &CpuPin, ticket: Ticket<'_>) {
    scene.computer.deliver_others();
    ticket.wait(pin);
}

fn first_of(places: [usize; 4]) -> VirtAddr {
    at(places).start()
}

/// The 2 MiB page is mapped by small ones, to the same frames.
const SPLIT: fn(&Scene) = |scene| {
    scene.fill();
    on(0, |pin| {
        let page = small(512, 1);
        scene.space().protect(pin, page, READ_ONLY).unwrap().wait(pin);
        scene.space().protect(pin, page, Protection::USER_DATA).unwrap().wait(pin);
    });
    (0..CPUS).for_each(|cpu| scene.access(cpu));
};

const MAPPINGS: &[Operation<Scene>] = &[
    operation("map", Scene::fill, |scene| {
        change(scene, |pin| scene.map(pin, at(NEW_SMALL)));
        scene.expect_found(&NEW_SMALL);
        scene.count_pages(2);
    }),
    operation("map 2 MiB", Scene::fill, |scene| {
        change(scene, |pin| scene.map(pin, large(6)));
        scene.expect_found(&NEW_LARGE);
        scene.count_pages(512);
    }),
    operation("map and wait for what is pending", Scene::fill_pending, |scene| {
        change(scene, |pin| {
            scene.map(pin, at(PENDING));
            scene.expect_found(&PENDING);
            finish(scene, pin, scene.space().pending(pin, at(PENDING)).unwrap());
        });
        scene.assert_complete(&PENDING);
        scene.count_pages(1);
    }),
    operation("translate", Scene::fill, |scene| {
        change(scene, |pin| {
            assert!(scene.space().translate(pin, at(SMALL).start()).is_some());
            assert!(scene.space().translate(pin, at(LARGE).start()).is_some());
            assert!(scene.space().translate(pin, at(MOVED).start()).is_none());
        });
    }),
    operation("pending", Scene::fill_pending, |scene| {
        change(scene, |pin| scene.keep(scene.space().pending(pin, at(PENDING)).unwrap(), &PENDING));
    }),
];

const CHANGES: &[Operation<Scene>] = &[
    operation("unmap and wait", Scene::fill, |scene| {
        scene.expect_none(&SMALL[..2]);
        change(scene, |pin| finish(scene, pin, scene.space().unmap(pin, small(0, 2)).unwrap()));
        scene.assert_complete(&SMALL[..2]);
        scene.count_pages(-2);
    }),
    operation("unmap, a ticket", Scene::fill, |scene| {
        scene.expect_none(&SMALL);
        change(scene, |pin| scene.keep(scene.space().unmap(pin, at(SMALL)).unwrap(), &SMALL));
        scene.count_pages(-4);
    }),
    operation("unmap and detach", Scene::fill, |scene| {
        change(scene, |pin| scene.space().unmap(pin, at(SMALL)).unwrap().detach());
        scene.expect_none(&SMALL);
        scene.count_pages(-4);
    }),
    operation("unmap 2 MiB", Scene::fill, |scene| {
        scene.expect_none(&LARGE);
        change(scene, |pin| finish(scene, pin, scene.space().unmap(pin, large(1)).unwrap()));
        scene.assert_complete(&LARGE);
        scene.count_pages(-512);
    }),
    operation("unmap a part of 2 MiB", Scene::fill, |scene| {
        scene.expect_none(&LARGE[..1]);
        change(scene, |pin| finish(scene, pin, scene.space().unmap(pin, small(512, 8)).unwrap()));
        scene.assert_complete(&LARGE);
        scene.count_pages(-8);
    }),
    operation("unmap of what is pending", Scene::fill_pending, |scene| {
        change(scene, |pin| finish(scene, pin, scene.space().unmap(pin, at(PENDING)).unwrap()));
        scene.assert_complete(&PENDING);
    }),
    operation("unmap in the kernel's space", Scene::fill, |scene| {
        scene.expect_none(&[KERNEL]);
        change(scene, |pin| {
            let kernel = scene.service.kernel_space().unwrap();
            finish(scene, pin, kernel.unmap(pin, kernel_page()).unwrap());
        });
        scene.assert_complete(&[KERNEL]);
    }),
    operation("protect", Scene::fill, |scene| {
        scene.expect_read_only(&SMALL);
        change(scene, |pin| scene.space().protect(pin, at(SMALL), READ_ONLY).unwrap().wait(pin));
        scene.assert_complete(&SMALL);
    }),
    operation("protect a part of 2 MiB", Scene::fill, |scene| {
        scene.expect_read_only(&LARGE[..1]);
        change(scene, |pin| {
            scene.keep(scene.space().protect(pin, small(512, 1), READ_ONLY).unwrap(), &LARGE);
        });
    }),
    operation("remap", Scene::fill, |scene| {
        scene.expect_moved(&SMALL, &MOVED);
        change(scene, |pin| {
            finish(scene, pin, scene.space().remap(pin, at(SMALL), first_of(MOVED)).unwrap());
        });
        scene.assert_complete(&SMALL);
    }),
    operation("promote", SPLIT, |scene| {
        change(scene, |pin| finish(scene, pin, scene.space().promote(pin, large(1)).unwrap()));
        scene.assert_complete(&LARGE);
    }),
    operation("a batch", Scene::fill, |scene| {
        change(scene, |pin| {
            let mut batch = scene.space().batch(pin);
            batch.unmap(small(512, 512)).unwrap();
            batch.protect(at(PENDING), READ_ONLY).unwrap();
            batch.remap(at(SMALL), first_of(MOVED)).unwrap();
            scene.expect_none(&LARGE);
            scene.expect_read_only(&PENDING);
            scene.expect_moved(&SMALL, &MOVED);
            finish(scene, pin, batch.issue());
        });
        [&SMALL[..], &LARGE, &PENDING].into_iter().for_each(|places| scene.assert_complete(places));
        scene.count_pages(-512);
    }),
    operation("a batch that is dropped", Scene::fill, |scene| {
        change(scene, |pin| {
            let mut batch = scene.space().batch(pin);
            batch.unmap(at(SMALL)).unwrap();
            batch.unmap(at(PENDING)).unwrap();
        });
        scene.expect_none(&SMALL);
        scene.expect_none(&PENDING);
        scene.count_pages(-5);
    }),
];

/// The space goes: nobody uses it any more.
const ABANDONED: fn(&Scene) = |scene| {
    scene.fill();
    (0..CPUS).for_each(|cpu| scene.leave(cpu));
    scene.drop_space();
    (0..KERNEL).for_each(|place| scene.expect_none(&[place]));
};

const SERVICE: &[Operation<Scene>] = &[
    operation("create a space and drop it", Scene::fill, |scene| {
        change(scene, |pin| drop(scene.service.create_space(pin).unwrap()));
    }),
    operation("drop a space in use", Scene::fill, |scene| scene.quietly(|| scene.drop_space())),
    operation("alloc and free", Scene::fill, |scene| scene.quietly(|| scene.allocate(0))),
    operation("activate another space", Scene::fill, |scene| {
        scene.quietly(|| {
            scene.leave(0);
            scene.enter(0);
        });
        scene.access(0);
    }),
    operation("activate with an interrupt to take", Scene::fill_pending, |scene| {
        scene.quietly(|| {
            scene.leave(0);
            scene.enter(0);
        });
        scene.access(0);
    }),
    operation("on_shootdown_ipi", Scene::fill_pending, |scene| {
        change(scene, |pin| _ = scene.service.on_shootdown_ipi(pin));
    }),
    operation("wake_due", Scene::fill_pending, |scene| {
        (0..CPUS).for_each(|cpu| scene.computer.deliver(cpu));
        on(0, |pin| _ = scene.service.wake_due(pin));
    }),
    operation("pending work", Scene::fill_pending, |scene| {
        on(0, |pin| _ = scene.service.run_pending_work(pin));
    }),
    operation(
        "pending work with retired frames",
        |scene| {
            scene.fill();
            on(1, |pin| scene.space().unmap(pin, at(SMALL)).unwrap().detach());
            scene.expect_none(&SMALL);
            scene.count_pages(-4);
            (0..CPUS).for_each(|cpu| scene.computer.deliver(cpu));
        },
        |scene| on(0, |pin| _ = scene.service.run_pending_work(pin)),
    ),
    operation("pending work with an abandoned space", ABANDONED, |scene| {
        on(0, |pin| _ = scene.service.run_pending_work(pin));
    }),
];

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: |scene| scene.release() }
}

/// Changes another directory entry's pages as `cpu`. All take their interrupts, but the stopped one
/// may be unable to answer before it goes on: then the ticket is kept.
fn change_elsewhere(scene: &Scene, cpu: usize) {
    if !scene.has_space() {
        return;
    }
    on(cpu, |pin| {
        scene.map(pin, at(ELSEWHERE));
        scene.expect_found(&ELSEWHERE);
        (0..CPUS).for_each(|user| scene.access(user));
        scene.expect_read_only(&ELSEWHERE);
        let mut protected = scene.space().protect(pin, at(ELSEWHERE), READ_ONLY).unwrap();
        scene.computer.deliver_others();
        if protected.is_complete() {
            scene.assert_complete(&ELSEWHERE);
        }
        (0..CPUS).for_each(|user| scene.access(user));
        scene.expect_none(&ELSEWHERE);
        let unmapped = scene.space().unmap(pin, at(ELSEWHERE)).unwrap();
        scene.computer.deliver_others();
        scene.keep(unmapped, &ELSEWHERE);
    });
}

fn translate(scene: &Scene, cpu: usize) {
    if scene.has_space() {
        on(cpu, |pin| {
            for page in [0, 512, 1023, 1536, 2560, 3072] {
                _ = scene.space().translate(pin, small(page, 1).start());
            }
        });
    }
}

const CONTEXTS: &[Context<Scene>] = &[
    context("its interrupt, and a spurious one", |scene| {
        scene.computer.deliver(0);
        on(0, |pin| {
            _ = scene.service.on_shootdown_ipi(pin);
            scene.service.poll_shootdown(pin);
        });
        scene.look();
    }),
    context("its handler takes frames, and all CPUs use the pages", |scene| {
        scene.allocate(0);
        scene.hold(0);
        translate(scene, 0);
        (0..CPUS).for_each(|cpu| scene.access(cpu));
    }),
    context("another CPU uses the pages", |scene| {
        scene.access(1);
        scene.access(2);
        scene.look();
    }),
    context("another CPU takes its interrupt, and a spurious one, and uses the pages", |scene| {
        scene.computer.deliver(1);
        on(1, |pin| _ = scene.service.on_shootdown_ipi(pin));
        scene.look();
        scene.access(1);
    }),
    context("another CPU takes frames, and a third uses the pages", |scene| {
        scene.allocate(1);
        scene.hold(1);
        scene.access(2);
        translate(scene, 1);
    }),
    context("another CPU changes pages elsewhere", |scene| change_elsewhere(scene, 1)),
    context("another CPU leaves the space and comes back", |scene| {
        scene.aloud(|| {
            if scene.has_space() {
                scene.leave(1);
                scene.enter(1);
            }
        });
        scene.access(1);
    }),
    context("another CPU tends", |scene| {
        scene.computer.deliver(1);
        scene.aloud(|| on(1, |pin| _ = scene.service.run_pending_work(pin)));
        scene.hold(1);
    }),
    context("another CPU wakes, and a frame of its node goes", |scene| {
        scene.aloud(|| on(1, |pin| _ = scene.service.wake_due(pin)));
        on(2, |pin| {
            let frame = scene.service.alloc(pin, &FrameRequest::frame().zeroed()).unwrap();
            // SAFETY: it was allocated just now.
            unsafe { scene.service.frames().free(pin, frame, topomem::Order::FRAME) }.unwrap();
        });
    }),
];

fn explore(name: &str, operations: &[Operation<Scene>], plan: Plan) {
    Matrix { name, scene: Scene::new, operations, contexts: CONTEXTS, check: |_| {}, plan, renew: None }
        .explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn mappings() {
    explore("mappings", MAPPINGS, Plan::traps(5_000));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn changes() {
    explore("changes of mappings", CHANGES, Plan::traps(2_500));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn service() {
    explore("service", SERVICE, Plan::traps(2_500));
}
