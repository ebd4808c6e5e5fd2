//! Large pages without memory for them.

use topomem::frames::FrameRequest;
use topomem::region::{
    Advice, CollapseError, FaultAccess, HugePages, MapRequest, MmapError, PageFault, Populate, Relocation,
};
use topomem::sim::SimService;
use topomem::{Access, CpuPin, Order, PageSize, PendingWork, PhysFrame};

use super::{BYTES, FIRST, HUGE, map, read, size_of, with_space, write};
use crate::space_support::{Space, allocated, at};

#[test]
fn more_pages_of_a_size_than_there_are_leave_nothing() {
    with_space(HugePages::Never, 16 << 20, |_, service, pin, space| {
        let before = allocated(service);
        let request = MapRequest::huge(64 << 20, PageSize::Size2MiB).populate(Populate::Now);
        let refused = space.mmap(pin, &request);
        assert!(matches!(refused, Err(MmapError::NoLargePage(PageSize::Size2MiB, _))), "{refused:?}");
        assert_eq!(space.next_region(pin, at(1)), None);
        assert_eq!(space.mapped_pages(), 0);
        while service.run_pending_work(pin) != PendingWork::Done {}
        assert!(allocated(service) <= before + 4, "tables alone stay");
    });
}

#[test]
fn without_a_free_run_pages_are_small() {
    with_space(HugePages::Always, 8 << 20, |sim, service, pin, space| {
        let mut held = Vec::new();
        while let Ok(run) = service.alloc(pin, &FrameRequest::order(Order::HUGE)) {
            held.push(run);
        }
        map(space, pin, HUGE);
        write(sim, pin, space, FIRST + 1);
        assert_eq!(size_of(space, pin, FIRST + 1), Some(PageSize::Size4KiB));
        assert_eq!(space.mapped_pages(), 1);
        let refused = space.collapse(pin, at(FIRST), BYTES);
        assert!(matches!(refused, Err(CollapseError::OutOfFrames(_))), "{refused:?}");
        write(sim, pin, space, FIRST + 1);
        for run in held {
            // SAFETY: it was allocated above, and nobody uses it.
            unsafe { service.frames().free(pin, run, Order::HUGE) }.unwrap();
        }
        space.collapse(pin, at(FIRST), BYTES).unwrap();
        assert_eq!(size_of(space, pin, FIRST + 1), Some(PageSize::Size2MiB));
        assert_eq!(read(sim, pin, space, FIRST + 1), FIRST + 1);
    });
}

/// Takes all free frames but `singles` of 4 KiB and `runs` of 2 MiB. Returns what it took.
fn starve(service: &SimService, pin: &CpuPin, singles: usize, runs: usize) -> Vec<(PhysFrame, Order)> {
    let mut held = Vec::new();
    for order in [Order::HUGE, Order::FRAME] {
        while let Ok(frame) = service.frames().alloc(pin, &FrameRequest::order(order)) {
            held.push((frame, order));
        }
    }
    for (order, count) in [(Order::FRAME, singles), (Order::HUGE, runs)] {
        for _ in 0..count {
            let of_order = held.iter().position(|&(_, of)| of == order).unwrap();
            give_back(service, pin, [held.swap_remove(of_order)]);
        }
    }
    held
}

fn give_back(service: &SimService, pin: &CpuPin, held: impl IntoIterator<Item = (PhysFrame, Order)>) {
    for (frame, order) in held {
        // SAFETY: it was allocated by the caller, and nobody uses it.
        unsafe { service.frames().free(pin, frame, order) }.unwrap();
    }
}

/// With each small number of free frames: an operation succeeds, or changes nothing; and none is lost.
#[test]
fn memory_that_runs_out_changes_nothing() {
    type Operation = fn(&Space, &CpuPin) -> bool;
    let operations: [(&str, Operation); 7] = [
        ("unmap a part", |space, pin| match space.munmap(pin, at(FIRST + 3), 1 << 12) {
            Ok(unmapping) => {
                unmapping.wait(pin);
                true
            }
            Err(_) => false,
        }),
        ("protect a part", |space, pin| match space.mprotect(pin, at(FIRST + 3), 1 << 12, Access::READ) {
            Ok(unmapping) => {
                unmapping.wait(pin);
                true
            }
            Err(_) => false,
        }),
        ("give up a part", |space, pin| match space.madvise(pin, at(FIRST + 3), 1 << 12, Advice::DontNeed) {
            Ok(unmapping) => {
                unmapping.wait(pin);
                true
            }
            Err(_) => false,
        }),
        ("move to where it is cut", |space, pin| {
            let to = Relocation::Fixed(at(FIRST + 8 * HUGE + 1));
            space.mremap(pin, at(FIRST), BYTES, BYTES, to).is_ok()
        }),
        ("fork", |space, pin| space.fork(pin).is_ok()),
        ("collapse", |space, pin| space.collapse(pin, at(FIRST + HUGE), BYTES).is_ok()),
        ("a first write", |space, pin| {
            space.on_page_fault(pin, PageFault::new(at(FIRST + 2 * HUGE), FaultAccess::Write)).is_ok()
        }),
    ];
    for (name, operation) in operations {
        let mut outcomes = Vec::new();
        for (singles, runs) in
            [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (6, 0), (9, 0), (0, 1), (3, 1), (9, 1)]
        {
            with_space(HugePages::Always, 16 << 20, |sim, service, pin, space| {
                map(space, pin, 3 * HUGE);
                write(sim, pin, space, FIRST + 3);
                space.set_huge_pages(HugePages::Never);
                for page in [0, 7, 300] {
                    write(sim, pin, space, FIRST + HUGE + page);
                }
                space.set_huge_pages(HugePages::Always);
                let (mapped, region) = (space.mapped_pages(), space.next_region(pin, at(FIRST)));
                let held = starve(service, pin, singles, runs);
                let done = operation(space, pin);
                give_back(service, pin, held);
                outcomes.push(done);
                if !done {
                    assert_eq!(space.mapped_pages(), mapped, "{name}, {singles}, {runs}");
                    assert_eq!(space.next_region(pin, at(FIRST)), region, "{name}, {singles}, {runs}");
                    assert_eq!(read(sim, pin, space, FIRST + 3), FIRST + 3);
                }
                for page in [0, 7, 300].map(|page| FIRST + HUGE + page) {
                    assert_eq!(read(sim, pin, space, page), page, "{name}");
                    write(sim, pin, space, page);
                }
            });
        }
        assert!(outcomes.contains(&true) && outcomes.contains(&false), "{name}: {outcomes:?}");
    }
}
