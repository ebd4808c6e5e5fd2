//! Forks of regions that are written to meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use topomem::CpuId;
use topomem::region::{FaultAccess, MapRequest, PageFault, Placement, Resolved};
use topomem::sim::Fault;

use super::booted;
use crate::space_support::{Space, activate, allocated, at, deactivate, finish, touch};

#[test]
fn a_fork_copies_what_is_written_afterwards() {
    let (sim, service) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        let before = allocated(service);
        let parent = service.create_space(pin).unwrap();
        activate(&parent, pin);
        let request = MapRequest::anonymous(8 << 12).placed(Placement::Fixed(at(100)));
        parent.mmap(pin, &request).unwrap();
        for page in 100..104 {
            touch(sim, pin, &parent, page, Some(page)).unwrap();
        }
        touch(sim, pin, &parent, 104, None).unwrap();
        let child = parent.fork(pin).unwrap();
        assert_eq!(child.mapped_pages(), 5);
        // The parent's translations are gone: it finds a copy.
        let fault =
            |space: &Space, page| space.on_page_fault(pin, PageFault::new(at(page), FaultAccess::Write));
        assert!(matches!(sim.store(at(100), 1), Err(Fault::Denied { .. })));
        assert_eq!(fault(&parent, 100), Ok(Resolved::Copied));
        assert_eq!(touch(sim, pin, &parent, 100, Some(1)), Ok(1));
        assert_eq!(fault(&parent, 105), Ok(Resolved::Zeroed));
        activate(&child, pin);
        assert_eq!(touch(sim, pin, &child, 100, None), Ok(100));
        assert_eq!(fault(&child, 100), Ok(Resolved::Reused), "the parent has given it up");
        assert_eq!(fault(&child, 101), Ok(Resolved::Copied));
        assert_eq!(fault(&child, 104), Ok(Resolved::Zeroed));
        assert_eq!(touch(sim, pin, &child, 105, None), Ok(0));
        let grandchild = child.fork(pin).unwrap();
        activate(&grandchild, pin);
        assert_eq!(touch(sim, pin, &grandchild, 102, Some(5)), Ok(5));
        activate(&parent, pin);
        for page in 101..104 {
            assert_eq!(touch(sim, pin, &parent, page, None), Ok(page));
        }
        assert_eq!(fault(&parent, 101), Ok(Resolved::Reused));
        activate(&child, pin);
        assert_eq!(touch(sim, pin, &child, 102, None), Ok(102));
        deactivate(service, pin);
        drop((child, grandchild));
        finish(sim, service, pin, parent, before);
    });
}

/// Says at its end, by a panic or not, that the other CPU need not go on.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One CPU writes numbers to pages in turn while the other forks: a copy that has a number in a page has
/// it, or a later one, in the pages that were written before.
#[test]
fn a_fork_is_consistent_while_another_cpu_writes() {
    const PAGES: u64 = 8;
    const FORKS: u64 = 60;
    let (sim, service) = booted(2);
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    let done = AtomicBool::new(false);
    sim.run(|pin| {
        activate(&space, pin);
        if pin.cpu() == CpuId::BOOT {
            // Each page in 512 GiB of its own.
            for page in 1..=PAGES {
                let request = MapRequest::anonymous(4096).placed(Placement::Fixed(at(page << 27)));
                space.mmap(pin, &request).unwrap();
            }
        }
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            let _done = Done(&done);
            for _ in 0..FORKS {
                let child = space.fork(pin).unwrap();
                activate(&child, pin);
                let mut last = None;
                for page in 1..=PAGES {
                    let number = touch(sim, pin, &child, page << 27, None).unwrap();
                    let right = last.is_none_or(|last| number == last || number + 1 == last);
                    assert!(right, "page {page} has {number} after {last:?}");
                    last = Some(number);
                }
                activate(&space, pin);
                drop(child);
                service.run_pending_work(pin);
            }
        } else {
            let mut number = 1;
            while !done.load(Ordering::Acquire) {
                for page in 1..=PAGES {
                    touch(sim, pin, &space, page << 27, Some(number)).unwrap();
                }
                number += 1;
            }
        }
        sim.barrier();
        deactivate(service, pin);
        sim.barrier();
    });
}
