//! Errors that other kernels have had in virtual memory, each with the rule that avoids it here. Each test
//! runs twice: as things are, where it must find nothing, and with the rule broken, where it must find the
//! error.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod frames;

use std::sync::atomic::{AtomicBool, Ordering};

use space_support::{Space, activate, at};
use topomem::region::{Advice, FaultAccess, FaultError, Kind, MapRequest, PageFault, Placement, Relocation};
use topomem::sim::{Sim, SimService};
use topomem::{Access, CpuId, CpuPin, Fault, PageSize, PendingWork, sim};

#[path = "../space_support/mod.rs"]
mod space_support;

const PAGE: u64 = 0x10_0000;
const OTHER: u64 = 0x40_0000;

struct World {
    sim: &'static Sim,
    service: &'static SimService,
}

impl World {
    fn new() -> World {
        let sim = Sim::builder().cpus(2).memory(16 << 20).build().unwrap();
        World { sim, service: sim.boot_service().unwrap() }
    }

    /// A space with a region of `pages` pages, of which the first holds 1.
    fn space(&self, pages: u64) -> Space {
        self.sim.on(CpuId::BOOT, |pin| {
            let space = self.service.create_space(pin).unwrap();
            let request = MapRequest::anonymous(pages << 12);
            space.mmap(pin, &request.placed(Placement::FixedNoReplace(at(PAGE)))).unwrap();
            self.on_space(pin, &space, || self.write(pin, &space, PAGE, 1).unwrap());
            space
        })
    }

    fn fork(&self, space: &Space) -> Space {
        self.sim.on(CpuId::BOOT, |pin| space.fork(pin).unwrap())
    }

    /// Runs `act` with `space` active, and then the kernel's.
    fn on_space<T>(&self, pin: &CpuPin, space: &Space, act: impl FnOnce() -> T) -> T {
        activate(space, pin);
        let result = act();
        activate(&self.service.kernel_space().unwrap(), pin);
        result
    }

    /// Reads the first word of `page` as a program does.
    fn read(&self, pin: &CpuPin, space: &Space, page: u64) -> Result<u64, FaultError> {
        self.access(pin, space, page, FaultAccess::Read, || self.sim.load(at(page)))
    }

    /// Writes the first word of `page` as a program does.
    fn write(&self, pin: &CpuPin, space: &Space, page: u64, value: u64) -> Result<(), FaultError> {
        self.access(pin, space, page, FaultAccess::Write, || self.sim.store(at(page), value))
    }

    fn access<T>(
        &self,
        pin: &CpuPin,
        space: &Space,
        page: u64,
        access: FaultAccess,
        attempt: impl Fn() -> Result<T, sim::Fault>,
    ) -> Result<T, FaultError> {
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(_) => space.on_page_fault(pin, PageFault::new(at(page), access))?,
            };
        }
    }

    /// CPU 1 uses `space`, by `before`; then CPU 0 changes it; then CPU 1 looks at it, by `after`, and says
    /// whether it has seen the error.
    fn change_before_a_witness(
        &self,
        space: &Space,
        before: impl Fn(&CpuPin) + Sync,
        change: impl Fn(&CpuPin) + Sync,
        after: impl Fn(&CpuPin) -> bool + Sync,
    ) -> bool {
        let found = self.sim.run(|pin| {
            self.on_space(pin, space, || {
                let first = pin.cpu() == CpuId::BOOT;
                if !first {
                    before(pin);
                }
                self.sim.barrier();
                if first {
                    change(pin);
                }
                self.sim.barrier();
                let found = !first && after(pin);
                self.sim.barrier();
                found
            })
        });
        found.contains(&true)
    }
}

/// `finds` must find nothing as things are, in `rounds` attempts, and something with `fault`, at last.
#[track_caller]
fn check(fault: Fault, rounds: usize, finds: impl Fn(&World) -> bool) {
    let world = World::new();
    let boot = |act: &dyn Fn(&CpuPin) -> u64| world.sim.on(CpuId::BOOT, act);
    let allocated = |_: &CpuPin| world.service.frames().validate().unwrap().allocated;
    let before = boot(&allocated);
    for round in 0..rounds {
        assert!(!finds(&world), "round {round}");
    }
    boot(&|pin| {
        while world.service.run_pending_work(pin) != PendingWork::Done {
            world.sim.take_interrupts();
        }
        0
    });
    assert_eq!(boot(&allocated), before, "frames leaked");
    // What a fault has broken is not used again.
    let found = (0..MOST_ROUNDS).any(|_| {
        let world = World::new();
        world.service.inject(Some(fault));
        let found = finds(&world);
        world.service.inject(None);
        found
    });
    assert!(found, "nothing is found with {fault:?}");
}

/// How often a race is tried with its rule broken.
const MOST_ROUNDS: usize = 3000;

/// CVE-2018-18281 of Linux: mremap flushed the TLB after it had released the page tables, so that the page
/// could be freed at its new place while it was still used at the old one. Here the generation of the move
/// is claimed before the entries are released: whoever changes the new place has a newer one, and waits for
/// the move's, too.
#[test]
fn a_move_is_announced_before_its_new_place_can_change() {
    check(Fault::MremapFlushLate, 30, |world| {
        let space = world.space(1);
        let found = world.sim.run(|pin| {
            world.on_space(pin, &space, || {
                let mut found = false;
                if pin.cpu() == CpuId::BOOT {
                    world.sim.barrier();
                    space.mremap(pin, at(PAGE), 4096, 4096, Relocation::Fixed(at(OTHER))).unwrap();
                } else {
                    assert_eq!(world.read(pin, &space, PAGE), Ok(1));
                    world.sim.barrier();
                    while space.translate(pin, at(OTHER)).is_none() {
                        topomem::Platform::relax(&world.sim);
                    }
                    space.madvise(pin, at(OTHER), 4096, Advice::DontNeed).unwrap().wait(pin);
                    found = world.sim.load(at(PAGE)).is_ok();
                }
                world.sim.barrier();
                found
            })
        });
        found.contains(&true)
    });
}

/// CVE-2024-50066 of Linux: mremap trusted what it had seen of an entry before it had locked it. Here an
/// entry is decoded under its claim, and never before.
#[test]
fn what_was_seen_before_a_claim_is_not_trusted() {
    check(Fault::FaultAfterUnmap, 30, |world| {
        let space = world.space(2);
        let found = world.sim.run(|pin| {
            world.on_space(pin, &space, || {
                world.sim.barrier();
                if pin.cpu() == CpuId::BOOT {
                    let unmapping = space.munmap(pin, at(PAGE), 2 << 12).unwrap();
                    unmapping.wait(pin);
                } else {
                    let _ = world.write(pin, &space, PAGE + 1, 2);
                }
                world.sim.barrier();
                let found = space.translate(pin, at(PAGE + 1)).is_some();
                world.sim.barrier();
                found
            })
        });
        found.contains(&true)
    });
}

/// A space with a large page at [`OTHER`], which is mapped.
fn huge_space(world: &World, pin: &CpuPin) -> Space {
    let space = world.service.create_space(pin).unwrap();
    let request = MapRequest::huge(2 << 20, PageSize::Size2MiB);
    space.mmap(pin, &request.placed(Placement::FixedNoReplace(at(OTHER)))).unwrap();
    space.on_page_fault(pin, PageFault::new(at(OTHER), FaultAccess::Write)).unwrap();
    assert_eq!(space.translate(pin, at(OTHER)).unwrap().size, PageSize::Size2MiB);
    space
}

/// Linux, commit ced108037c2a: MADV_DONTNEED missed a huge page whose entry another CPU had cleared for a moment,
/// to give it another protection. Here no entry is ever cleared and set again: whoever looks finds the page
/// mapped all along.
#[test]
fn a_page_is_mapped_while_its_protection_changes() {
    let world = World::new();
    let space = world.sim.on(CpuId::BOOT, |pin| huge_space(&world, pin));
    let done = AtomicBool::new(false);
    world.sim.run(|pin| {
        if pin.cpu() == CpuId::BOOT {
            for round in 0..200 {
                let (page, pages) = (round * 7 % 509, 1 + round % 3);
                for access in [Access::READ, Access::WRITE] {
                    space.mprotect(pin, at(OTHER + page), pages << 12, access).unwrap().wait(pin);
                }
            }
            done.store(true, Ordering::Release);
        } else {
            while !done.load(Ordering::Acquire) {
                for page in [0, 7, 8, 511] {
                    assert!(space.translate(pin, at(OTHER + page)).is_some(), "page {page} is gone");
                }
            }
        }
        world.sim.barrier();
    });
    // All of it is given up, in whatever parts.
    world.sim.on(CpuId::BOOT, |pin| {
        space.madvise(pin, at(OTHER), 2 << 20, Advice::DontNeed).unwrap().wait(pin);
        assert!((0..512).all(|page| space.translate(pin, at(OTHER + page)).is_none()));
    });
}

/// Dirty COW, CVE-2016-5195 and CVE-2022-2590 of Linux: a write by the kernel to a read-only mapping was broken
/// off, and begun again as a read, so that it went to the shared page. Here an access is a write at each try,
/// whatever has become of the page in between.
#[test]
fn a_write_is_a_write_at_each_try() {
    check(Fault::ReuseWithSharer, 20, |world| {
        let space = world.space(1);
        let other = world.fork(&space);
        let done = AtomicBool::new(false);
        world.sim.run(|pin| {
            world.on_space(pin, &space, || {
                world.sim.barrier();
                if pin.cpu() == CpuId::BOOT {
                    for value in 2..20 {
                        world.write(pin, &space, PAGE, value).unwrap();
                    }
                    done.store(true, Ordering::Release);
                } else {
                    while !done.load(Ordering::Acquire) {
                        space.madvise(pin, at(PAGE), 4096, Advice::DontNeed).unwrap().wait(pin);
                    }
                }
                world.sim.barrier();
            });
        });
        world
            .sim
            .on(CpuId::BOOT, |pin| world.on_space(pin, &other, || world.read(pin, &other, PAGE)) != Ok(1))
    });
}

/// What may be done to a page before it is written to.
const CHANGES: [fn(&Space, &CpuPin, u64); 4] = [
    |_, _, _| {},
    |space, pin, page| {
        for access in [Access::READ, Access::WRITE] {
            space.mprotect(pin, at(page), 4096, access).unwrap().wait(pin);
        }
    },
    |space, pin, _| drop(space.fork(pin).unwrap()),
    |space, pin, page| {
        for (from, to) in [(page, OTHER), (OTHER, page)] {
            space.mremap(pin, at(from), 4096, 4096, Relocation::Fixed(at(to))).unwrap();
        }
    },
];

/// StackRot, CVE-2023-3269 of Linux: a stack that grew changed the tree of regions under a lock for readers. Here
/// growth marks vacant pages, under the claims of their entries, like any other change: two CPUs may let one
/// stack grow, while a third unmaps it.
#[test]
fn a_stack_grows_by_two_cpus_at_once() {
    let world = World::new();
    for round in 0..200 {
        let space = world.sim.on(CpuId::BOOT, |pin| {
            let space = world.service.create_space(pin).unwrap();
            let request = MapRequest::anonymous(4096).kind(Kind::Stack);
            space.mmap(pin, &request.placed(Placement::FixedNoReplace(at(PAGE)))).unwrap();
            space
        });
        world.sim.run(|pin| {
            world.on_space(pin, &space, || {
                world.sim.barrier();
                let mine = PAGE - 1 - pin.cpu().index() as u64 - (round % 5);
                assert_eq!(world.write(pin, &space, mine, 1), Ok(()), "round {round}");
                world.sim.barrier();
            });
        });
        world.sim.on(CpuId::BOOT, |pin| {
            let stack = space.next_region(pin, at(1)).unwrap();
            assert_eq!(stack.end(), at(PAGE + 1));
            assert_eq!(stack.start(), at(PAGE - 2 - round % 5), "one region, down to the lower access");
        });
    }
}

/// FreeBSD's copy-on-write (FreeBSD-SA-21:08.vm) left a stale mapping to the old page in other CPUs' TLBs. Here a
/// fault that replaces a page waits for its ticket before the program goes on.
#[test]
fn a_copy_is_what_every_cpu_sees() {
    check(Fault::CowWithoutFlush, 3, |world| {
        let space = world.space(1);
        let _other = world.fork(&space);
        world.change_before_a_witness(
            &space,
            |pin| assert_eq!(world.read(pin, &space, PAGE), Ok(1)),
            |pin| world.write(pin, &space, PAGE, 2).unwrap(),
            |pin| world.read(pin, &space, PAGE) != Ok(2),
        )
    });
}

/// A fork whose invalidation is not waited for: the parent's threads go on writing to what the child has.
#[test]
fn no_thread_of_the_parent_writes_to_the_child() {
    check(Fault::ForkWithoutFlush, 3, |world| {
        let space = world.space(1);
        let child = std::sync::Mutex::new(None);
        world.change_before_a_witness(
            &space,
            |pin| world.write(pin, &space, PAGE, 3).unwrap(),
            |pin| *child.lock().unwrap() = Some(space.fork(pin).unwrap()),
            |pin| {
                world.write(pin, &space, PAGE, 4).unwrap();
                false
            },
        );
        let child = child.into_inner().unwrap().unwrap();
        world
            .sim
            .on(CpuId::BOOT, |pin| world.on_space(pin, &child, || world.read(pin, &child, PAGE)) != Ok(3))
    });
}

/// A permission that is taken away without an invalidation.
#[test]
fn no_cpu_writes_after_the_permission_has_gone() {
    check(Fault::MprotectWithoutFlush, 3, |world| {
        let space = world.space(1);
        world.change_before_a_witness(
            &space,
            |pin| world.write(pin, &space, PAGE, 3).unwrap(),
            |pin| space.mprotect(pin, at(PAGE), 4096, Access::READ).unwrap().wait(pin),
            |pin| world.write(pin, &space, PAGE, 4).is_ok(),
        )
    });
}
