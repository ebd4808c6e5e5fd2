//! Every operation on regions, stopped after its instructions while another context of the CPU takes frames, or
//! another CPU uses the same pages, changes other pages of the space, or copies, writes or unmaps the same
//! frames in another space: contents are those of a plain model, no CPU uses a translation whose removal is
//! complete, and all frames come back.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the suite of address spaces")]
#[path = "step_support/computer.rs"]
mod computer;
#[path = "step_support/machine.rs"]
mod machine;
#[path = "step_support/region_scene.rs"]
mod scene;

use scene::{CHANGED, ELSEWHERE, HEAP, MOVED, Page, STACK, Scene, TAGGED, UNTOUCHED, WIDE, ZEROS, at};
use topomem::region::{Advice, FaultAccess, FaultError, Kind, MapRequest, PageFault, Placement, Relocation};
use topomem::{Access, CpuPin};
use topomem_stepper::{Context, Matrix, Operation, Plan};

use computer::on;

/// An operation of CPU 0.
const fn operation(name: &'static str, run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare: Scene::fill, run, undo: Scene::settle }
}

const BYTES: u64 = 4096;

fn mmap(scene: &Scene, pin: &CpuPin, request: MapRequest) {
    scene.space().mmap(pin, &request).unwrap();
}

fn mprotect(scene: &Scene, pin: &CpuPin, page: u64, pages: u64, access: Access) {
    scene.space().mprotect(pin, at(page), pages * BYTES, access).unwrap().wait(pin);
    scene.assert_coherent();
}

fn madvise(scene: &Scene, pin: &CpuPin, page: u64, pages: u64, advice: Advice) {
    scene.space().madvise(pin, at(page), pages * BYTES, advice).unwrap().wait(pin);
    scene.assert_coherent();
}

fn mremap(scene: &Scene, pin: &CpuPin, page: u64, [old, new]: [u64; 2], relocation: Relocation) {
    scene.space().mremap(pin, at(page), old * BYTES, new * BYTES, relocation).unwrap();
    scene.assert_coherent();
}

fn fault(scene: &Scene, page: u64, access: FaultAccess) -> Result<(), FaultError> {
    let resolved = on(0, |pin| scene.space().on_page_fault(pin, PageFault::new(at(page), access)));
    scene.assert_coherent();
    resolved.map(|_| ())
}

const REGIONS: &[Operation<Scene>] = &[
    operation("mmap at a place", |scene| {
        on(0, |pin| {
            let placed = Placement::FixedNoReplace(at(MOVED));
            mmap(scene, pin, MapRequest::anonymous(2 * BYTES).placed(placed));
        });
        scene.expect(MOVED, 2, Page::Holds(0));
    }),
    operation("mmap anywhere", |scene| {
        on(0, |pin| mmap(scene, pin, MapRequest::anonymous(2 * BYTES)));
    }),
    operation("mmap in the place of others", |scene| {
        on(0, |pin| {
            let placed = Placement::Fixed(at(CHANGED));
            mmap(scene, pin, MapRequest::anonymous(3 * BYTES).kind(Kind::Data).placed(placed));
        });
        scene.assert_coherent();
        scene.expect(CHANGED, 3, Page::Holds(0));
    }),
    operation("munmap", |scene| {
        on(0, |pin| scene.space().munmap(pin, at(CHANGED), 2 * BYTES).unwrap().wait(pin));
        scene.assert_coherent();
        scene.expect(CHANGED, 2, Page::Vacant);
    }),
    operation("munmap, detached", |scene| {
        on(0, |pin| scene.space().munmap(pin, at(CHANGED), 2 * BYTES).unwrap().detach());
        scene.expect(CHANGED, 2, Page::Vacant);
    }),
    operation("munmap of a part of what is untouched", |scene| {
        on(0, |pin| scene.space().munmap(pin, at(WIDE + 3), 2 * BYTES).unwrap().wait(pin));
        scene.expect(WIDE + 3, 2, Page::Vacant);
    }),
    operation("mprotect to read", |scene| {
        on(0, |pin| mprotect(scene, pin, CHANGED, 3, Access::READ));
        scene.expect_read_only(CHANGED, 3);
    }),
    operation("mprotect to nothing and back", |scene| {
        on(0, |pin| mprotect(scene, pin, CHANGED, 2, Access::NONE));
        on(0, |pin| mprotect(scene, pin, CHANGED, 2, Access::WRITE));
    }),
    operation("madvise(DONTNEED)", |scene| {
        on(0, |pin| madvise(scene, pin, CHANGED, 4, Advice::DontNeed));
        scene.expect(CHANGED, 4, Page::Holds(0));
    }),
    operation("madvise(GUARD_INSTALL)", |scene| {
        on(0, |pin| madvise(scene, pin, CHANGED + 1, 2, Advice::GuardInstall));
        scene.expect(CHANGED + 1, 2, Page::Guard);
    }),
    operation("mremap to another place", |scene| {
        scene.expect_moved(CHANGED, MOVED, 4);
        on(0, |pin| mremap(scene, pin, CHANGED, [4, 4], Relocation::Fixed(at(MOVED))));
    }),
    operation("mremap to fewer pages", |scene| {
        on(0, |pin| mremap(scene, pin, CHANGED, [4, 2], Relocation::InPlace));
        scene.expect(CHANGED + 2, 2, Page::Vacant);
    }),
    operation("mremap to more pages", |scene| {
        on(0, |pin| mremap(scene, pin, WIDE, [1024, 1026], Relocation::InPlace));
    }),
    operation("brk", |scene| {
        for end in [HEAP + 3, HEAP + 1] {
            on(0, |pin| assert_eq!(scene.space().brk(pin, at(end)), at(end)));
        }
        scene.expect(HEAP, 1, Page::Holds(0));
    }),
];

const FAULTS: &[Operation<Scene>] = &[
    operation("a first read", |scene| fault(scene, UNTOUCHED, FaultAccess::Read).unwrap()),
    operation("a first write", |scene| fault(scene, UNTOUCHED, FaultAccess::Write).unwrap()),
    operation("a write to the page of zeros", |scene| fault(scene, ZEROS, FaultAccess::Write).unwrap()),
    operation("a write to a shared page", |scene| fault(scene, TAGGED, FaultAccess::Write).unwrap()),
    operation("a write to two shared pages", |scene| {
        fault(scene, TAGGED, FaultAccess::Write).unwrap();
        fault(scene, TAGGED + 1, FaultAccess::Write).unwrap();
    }),
    operation("a write to what is untouched", |scene| fault(scene, WIDE + 700, FaultAccess::Write).unwrap()),
    operation("an access of no region", |scene| {
        assert_eq!(fault(scene, MOVED, FaultAccess::Read), Err(FaultError::NotMapped));
    }),
    operation("an access that is not permitted", |scene| {
        assert_eq!(fault(scene, TAGGED, FaultAccess::Execute), Err(FaultError::Denied));
    }),
    operation("a write below a stack", |scene| {
        fault(scene, STACK - 2, FaultAccess::Write).unwrap();
        scene.expect(STACK - 2, 1, Page::Holds(0));
    }),
];

/// All entries are claimed meanwhile: no other CPU changes the space.
const FORKS: &[Operation<Scene>] = &[
    operation("fork", |scene| {
        let child = on(0, |pin| scene.space().fork(pin).unwrap());
        scene.assert_coherent();
        drop(child);
    }),
    operation("fork, and a write", |scene| {
        let child = on(0, |pin| scene.space().fork(pin).unwrap());
        fault(scene, CHANGED, FaultAccess::Write).unwrap();
        on(0, |pin| child.on_page_fault(pin, PageFault::new(at(CHANGED), FaultAccess::Write)).unwrap());
        drop(child);
    }),
];

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: |scene| scene.release() }
}

const CONTEXTS: &[Context<Scene>] = &[
    context("its interrupt, and its handler takes frames", |scene| {
        scene.computer.deliver(0);
        on(0, |pin| _ = scene.service.on_shootdown_ipi(pin));
        scene.allocate(0);
    }),
    context("another CPU uses the pages, and a third takes frames", |scene| {
        scene.access(2);
        scene.hold(1);
        scene.access(2);
    }),
    context("another CPU takes its interrupt, and uses the pages", |scene| {
        scene.computer.deliver(2);
        on(2, |pin| _ = scene.service.on_shootdown_ipi(pin));
        scene.access(2);
    }),
    context("another space writes to what it shares", |scene| scene.write_in_sibling()),
    context("another space gives up what it shares, and its frames are used", |scene| {
        scene.clear_sibling();
        scene.hold(1);
        scene.access(2);
    }),
    context("another space is copied, and writes", |scene| {
        let copy = on(1, |pin| scene.sibling().fork(pin).unwrap());
        scene.write_in_sibling();
        drop(copy);
        on(1, |pin| _ = scene.service.run_pending_work(pin));
    }),
];

/// In the same space, in other tables. The unmapping is waited for: a detached unmapping takes the lock of the
/// space's list of retired frames, and a context here would wait for the stopped operation that holds the lock.
const NEIGHBOURS: &[Context<Scene>] = &[context("another CPU maps, writes and unmaps elsewhere", |scene| {
    on(2, |pin| {
        let placed = Placement::FixedNoReplace(at(ELSEWHERE));
        mmap(scene, pin, MapRequest::anonymous(2 * BYTES).placed(placed));
        let write = PageFault::new(at(ELSEWHERE), FaultAccess::Write);
        scene.space().on_page_fault(pin, write).unwrap();
        scene.space().munmap(pin, at(ELSEWHERE), 2 * BYTES).unwrap().wait(pin);
    });
})];

fn explore(name: &str, operations: &[Operation<Scene>], contexts: &[Context<Scene>], plan: Plan) {
    Matrix { name, scene: Scene::new, operations, contexts, check: |_| {}, plan, renew: None }.explore();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn regions() {
    explore("regions", REGIONS, CONTEXTS, Plan::traps(450));
    explore("regions beside others", REGIONS, NEIGHBOURS, Plan::traps(450));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn faults() {
    explore("faults", FAULTS, CONTEXTS, Plan::traps(800));
    explore("faults beside changes", FAULTS, NEIGHBOURS, Plan::traps(800));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn forks() {
    // The last context copies a space, too: it would wait for the list of spaces.
    explore("forks", FORKS, &CONTEXTS[..CONTEXTS.len() - 1], Plan::traps(1_000));
}
