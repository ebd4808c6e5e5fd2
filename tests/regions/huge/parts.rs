//! Parts of large pages.

use topomem::region::{Advice, HugePages, MapRequest, Placement, Relocation};
use topomem::{Access, CpuPin, PageSize, VirtAddr};

use super::{BYTES, FIRST, HUGE, MEMORY, map, read, size_of, with_space, write};
use crate::space_support::{Space, at, touch};

/// Cuts `part` pages out of the middle of a page of 2 MiB in each way there is.
#[test]
fn parts_of_a_large_page_change_alone() {
    type Change = fn(&Space, &CpuPin, VirtAddr, u64);
    let changes: [(Change, Option<u64>); 4] = [
        (|space, pin, start, bytes| space.munmap(pin, start, bytes).unwrap().wait(pin), None),
        (
            |space, pin, start, bytes| {
                space.mprotect(pin, start, bytes, Access::READ).unwrap().wait(pin);
                space.mprotect(pin, start, bytes, Access::WRITE).unwrap().wait(pin);
            },
            Some(1),
        ),
        (
            |space, pin, start, bytes| {
                space.madvise(pin, start, bytes, Advice::DontNeed).unwrap().wait(pin);
            },
            Some(0),
        ),
        (
            |space, pin, start, bytes| {
                let to = Relocation::Fixed(at(FIRST + 4 * HUGE + 3));
                space.mremap(pin, start, bytes, bytes, to).unwrap();
                space.mremap(pin, at(FIRST + 4 * HUGE + 3), bytes, bytes, Relocation::Fixed(start)).unwrap();
            },
            Some(1),
        ),
    ];
    for request in [MapRequest::anonymous(BYTES), MapRequest::huge(BYTES, PageSize::Size2MiB)] {
        for (change, left) in changes {
            for (first, count) in [(0, 1), (100, 7), (511, 1), (0, 511)] {
                with_space(HugePages::Always, MEMORY, |sim, _, pin, space| {
                    space.mmap(pin, &request.placed(Placement::Fixed(at(FIRST)))).unwrap();
                    for page in FIRST..FIRST + HUGE {
                        touch(sim, pin, space, page, Some(1)).unwrap();
                    }
                    let region = space.next_region(pin, at(FIRST)).unwrap().region();
                    assert_eq!(size_of(space, pin, FIRST), Some(PageSize::Size2MiB));
                    change(space, pin, at(FIRST + first), count << 12);
                    for page in 0..HUGE {
                        let inside = (first..first + count).contains(&page);
                        let found = touch(sim, pin, space, FIRST + page, None);
                        let expected = if inside { left } else { Some(1) };
                        assert_eq!(found.ok(), expected, "page {page} of {first}, {count}");
                    }
                    let outside = if first == 0 { FIRST + count } else { FIRST };
                    let found = space.next_region(pin, at(outside)).unwrap();
                    assert_eq!(found.region(), region, "ids are kept");
                });
            }
        }
    }
}

#[test]
fn a_whole_page_that_is_moved_stays_large() {
    with_space(HugePages::Always, MEMORY, |sim, _, pin, space| {
        map(space, pin, HUGE);
        write(sim, pin, space, FIRST + 3);
        let region = space.next_region(pin, at(FIRST)).unwrap().region();
        let to = FIRST + 9 * HUGE;
        space.mremap(pin, at(FIRST), BYTES, BYTES, Relocation::Fixed(at(to))).unwrap();
        assert_eq!(size_of(space, pin, to), Some(PageSize::Size2MiB));
        assert_eq!(read(sim, pin, space, to + 3), FIRST + 3);
        assert_eq!(space.next_region(pin, at(to)).unwrap().region(), region, "the region moves, too");
        let odd = to + 4 * HUGE + 1;
        space.mremap(pin, at(to), BYTES, BYTES, Relocation::Fixed(at(odd))).unwrap();
        assert_eq!(size_of(space, pin, odd), Some(PageSize::Size4KiB));
        assert_eq!(read(sim, pin, space, odd + 3), FIRST + 3);
        assert_eq!(space.next_region(pin, at(odd)).unwrap().region(), region);
        // It grows, so that it has to move.
        map(space, pin, 1);
        let grown = space.mremap(pin, at(odd), BYTES, 2 * BYTES, Relocation::MayMove).unwrap();
        assert_eq!(read(sim, pin, space, (grown.as_u64() >> 12) + 3), FIRST + 3);
    });
}
