//! Frames that are freed, reused or shared too early.

use topomem::region::{Advice, FaultAccess, PageFault, Resolved};
use topomem::{Access, CpuId, Fault};

use super::{CHANGES, OTHER, PAGE, check, huge_space};
use crate::space_support::{Space, activate, at};

/// CVE-2022-39188 of Linux: a mapping left the lists by which its pages are found before TLBs had forgotten
/// it, so that pages were freed which were still used. Here a share of a frame is dropped when the ticket is
/// complete: until then no other holder is the last.
#[test]
fn a_frame_is_not_free_while_a_tlb_shows_it() {
    check(Fault::DontNeedWithoutFlush, 3, |world| {
        let space = world.space(1);
        let other = world.fork(&space);
        let second = CpuId::new(1).unwrap();
        world.sim.on(second, |pin| {
            activate(&space, pin);
            assert_eq!(world.read(pin, &space, PAGE), Ok(1));
        });
        let resolved = world.sim.on(CpuId::BOOT, |pin| {
            // CPU 1 does not answer: it is not played now.
            let mut given_up = space.madvise(pin, at(PAGE), 4096, Advice::DontNeed).unwrap();
            if given_up.is_complete() {
                given_up.wait(pin);
            } else {
                given_up.detach();
            }
            other.on_page_fault(pin, PageFault::new(at(PAGE), FaultAccess::Write)).unwrap()
        });
        // If it were the last holder's now, CPU 1 would see what it writes.
        let found = resolved == Resolved::Reused;
        world.sim.on(second, |pin| {
            let _ = world.sim.load(at(PAGE));
            activate(&world.service.kernel_space().unwrap(), pin);
        });
        found
    });
}

/// CVE-2020-29368 of Linux: when a huge page was split, the counts of its parts were wrong for a moment, and a
/// shared part was written to as if it had one holder. Here a run has one count, and nobody is ever told to
/// be the sole holder of a part.
#[test]
fn a_part_of_a_shared_run_has_no_sole_holder() {
    check(Fault::ReuseWithSharer, 3, |world| {
        world.sim.on(CpuId::BOOT, |pin| {
            let space = huge_space(world, pin);
            let copy = space.fork(pin).unwrap();
            // The parent's large page is cut, the child's stays.
            for access in [Access::READ, Access::WRITE] {
                space.mprotect(pin, at(OTHER + 5), 4096, access).unwrap().wait(pin);
            }
            let write = |space: &Space| {
                space.on_page_fault(pin, PageFault::new(at(OTHER + 5), FaultAccess::Write)).unwrap()
            };
            let resolved = write(&space);
            drop(copy);
            resolved == Resolved::Reused
        })
    });
}

/// CVE-2017-1000405 of Linux: "dirty" was taken for "copied", and the huge page of zeros was written to. Here
/// the frame of zeros is borrowed by whoever maps it, and no change of a region permits writes to it.
#[test]
fn the_frame_of_zeros_is_never_written() {
    check(Fault::ZeroPageWritable, 2, |world| {
        let space = world.space(8);
        world.sim.on(CpuId::BOOT, |pin| {
            world.on_space(pin, &space, || {
                let mut found = false;
                let zeros = PAGE + 7;
                for (number, change) in CHANGES.iter().enumerate() {
                    let page = PAGE + 1 + number as u64;
                    found |= world.read(pin, &space, page) != Ok(0);
                    change(&space, pin, page);
                    world.write(pin, &space, page, 77).unwrap();
                    found |= world.read(pin, &space, zeros) != Ok(0);
                }
                let copy = space.fork(pin).unwrap();
                let write = PageFault::new(at(zeros), FaultAccess::Write);
                found |= copy.on_page_fault(pin, write) == Ok(Resolved::Reused);
                found
            })
        })
    });
}
