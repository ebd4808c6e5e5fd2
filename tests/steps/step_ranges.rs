//! Every operation of kernel ranges, stopped after each of its instructions while another context of the CPU uses
//! ranges, or other CPUs free ranges and use pages: nobody gets addresses or frames of which any CPU has an older
//! translation, ranges keep what their owners wrote, and all frames and addresses come back.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "step_support/computer.rs"]
mod computer;
#[path = "step_support/machine.rs"]
mod machine;
#[path = "step_support/range_scene.rs"]
mod scene;

use computer::on;
use scene::Scene;
use topomem::ranges::{RangeError, RangeRequest};
use topomem_stepper::{Context, Matrix, Operation, Plan};

/// An operation of CPU 0.
const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

/// A range for the operation and one for the context, which all CPUs have used.
fn holds(scene: &Scene) {
    scene.take(0, 3, &scene.ready);
    scene.take(0, 3, &scene.spare);
    scene.use_all();
}

/// The same, and a range that every CPU has used was freed.
fn freed(scene: &Scene) {
    holds(scene);
    scene.take(0, 3, &scene.ours);
    scene.use_all();
    scene.give(0, &scene.ours);
}

const ALLOCATIONS: &[Operation<Scene>] = &[
    operation("allocate", holds, |scene| scene.take(0, 3, &scene.ours)),
    operation("allocate zeroed", holds, |scene| scene.take_zeroed(0, 2, &scene.ours)),
    operation("allocate beside a freed range", freed, |scene| scene.take(0, 3, &scene.ours)),
    operation("free", holds, |scene| scene.give(0, &scene.ready)),
    operation("free and allocate", holds, |scene| {
        scene.give(0, &scene.ready);
        scene.take(0, 3, &scene.ours);
    }),
    operation("pages_at", freed, |scene| {
        on(0, |pin| {
            let none = topomem::VirtAddr::new_truncate(topomem::sim::Sim::WINDOW.as_u64());
            assert_eq!(scene.ranges.pages_at(pin, none), None);
        });
    }),
];

/// Allocates where only a freed range has addresses. The context may have taken them.
fn allocate_in_a_crowd(scene: &Scene) {
    match scene.try_take(0, &RangeRequest::pages(3), 3, &scene.ready) {
        Ok(()) => {}
        Err(RangeError::OutOfAddresses { .. }) => {
            let taken = !scene.theirs.is_empty() || scene.spare.pages() > 9;
            assert!(taken, "a freed range was there");
        }
        Err(error) => panic!("{error}"),
    }
}

const CROWDED: &[Operation<Scene>] =
    &[operation("allocate where a freed range has the addresses", Scene::crowd, allocate_in_a_crowd)];

const FLUSHES: &[Operation<Scene>] = &[
    operation("flush", freed, |scene| scene.flush(0)),
    operation(
        "flush of what another CPU unmapped",
        |scene| {
            freed(scene);
            scene.flush(1);
        },
        |scene| scene.flush(0),
    ),
    operation(
        "flush of what all have forgotten",
        |scene| {
            freed(scene);
            scene.flush(1);
            (0..3).for_each(|cpu| scene.computer.deliver(cpu));
        },
        |scene| scene.flush(0),
    ),
    operation("pending work", freed, |scene| on(0, |pin| _ = scene.service.run_pending_work(pin))),
];

const RESIZES: &[Operation<Scene>] = &[
    operation(
        "longer, where it is",
        |scene| {
            scene.take(0, 3, &scene.ours);
            holds(scene);
            scene.use_all();
            scene.give(0, &scene.ours);
            (0..6).for_each(|round| {
                scene.flush(0);
                scene.computer.deliver(round % 3);
            });
        },
        |scene| scene.resize(0, &scene.ready, 5).unwrap(),
    ),
    operation("longer, elsewhere", holds, |scene| scene.resize(0, &scene.ready, 5).unwrap()),
    operation("shorter", holds, |scene| scene.resize(0, &scene.ready, 1).unwrap()),
    operation("shorter and longer", holds, |scene| {
        scene.resize(0, &scene.ready, 1).unwrap();
        scene.resize(0, &scene.ready, 4).unwrap();
    }),
];

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: |scene| scene.release() }
}

/// An allocation of a context, which may meet the operation in its use of the addresses.
fn may_take(scene: &Scene, cpu: usize) {
    match scene.try_take(cpu, &RangeRequest::pages(2), 2, &scene.theirs) {
        Ok(()) | Err(RangeError::Busy | RangeError::OutOfAddresses { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Takes a range and frees one, and uses them.
fn busy(scene: &Scene, cpu: usize) {
    may_take(scene, cpu);
    scene.give(cpu, &scene.spare);
    scene.access(cpu);
    scene.hold(cpu);
}

/// No other CPU maps or unmaps: who changes pages of the same 2 MiB waits for the other's claim, and the operation is
/// stopped. (`ranges.rs` has CPUs that do, on threads.)
const CONTEXTS: &[Context<Scene>] = &[
    context("its interrupt, and a spurious one", |scene| {
        scene.computer.deliver(0);
        on(0, |pin| _ = scene.service.on_shootdown_ipi(pin));
        scene.access(0);
    }),
    context("its handler takes ranges and frames", |scene| busy(scene, 0)),
    context("its handler flushes", |scene| {
        scene.flush(0);
        scene.hold(0);
        scene.access(0);
    }),
    context("other CPUs use the pages", |scene| {
        scene.access(1);
        scene.access(2);
    }),
    context("another CPU frees a range and takes frames, and a third uses the pages", |scene| {
        scene.give(1, &scene.spare);
        scene.access(1);
        scene.hold(1);
        scene.access(2);
    }),
    context("all answer, and another CPU tends", |scene| {
        scene.computer.deliver(1);
        scene.computer.deliver(2);
        on(1, |pin| _ = scene.service.run_pending_work(pin));
        scene.hold(1);
        (1..3).for_each(|cpu| scene.access(cpu));
    }),
];

fn explore(name: &str, scene: fn() -> Scene, operations: &[Operation<Scene>], plan: Plan) {
    Matrix { name, scene, operations, contexts: CONTEXTS, check: |_| {}, plan, renew: None }.explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn allocations_and_frees() {
    explore("ranges: allocations", Scene::new, ALLOCATIONS, Plan::traps(1_500));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn allocations_without_addresses() {
    explore("ranges: in a crowd", Scene::crowded, CROWDED, Plan::traps(800));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn flushes() {
    explore("ranges: flushes", Scene::new, FLUSHES, Plan::traps(1_500));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn changes_of_length() {
    explore("ranges: changes of length", Scene::new, RESIZES, Plan::traps(1_500));
}
