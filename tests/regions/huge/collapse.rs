//! Small pages that become a large one.

use topomem::region::{Advice, CollapseError, FaultAccess, HugePages, MapRequest, PageFault, Placement};
use topomem::{Access, PageSize};

use super::{BYTES, FIRST, HUGE, MEMORY, map, read, size_of, with_space, write};
use crate::space_support::at;

#[test]
fn a_collapse_keeps_contents_and_region() {
    with_space(HugePages::Never, MEMORY, |sim, _, pin, space| {
        map(space, pin, 3 * HUGE);
        // Some are written, some read, and some shared.
        for page in [1, 2, 77, 511] {
            write(sim, pin, space, FIRST + page);
        }
        assert_eq!(read(sim, pin, space, FIRST + 5), 0);
        let child = space.fork(pin).unwrap();
        write(sim, pin, space, FIRST + 2);
        let region = space.next_region(pin, at(FIRST)).unwrap();
        // Less than 2 MiB stays as it is.
        space.collapse(pin, at(FIRST + 1), BYTES).unwrap();
        assert_eq!(size_of(space, pin, FIRST + 1), Some(PageSize::Size4KiB));
        space.collapse(pin, at(FIRST), 3 * BYTES).unwrap();
        assert_eq!(size_of(space, pin, FIRST), Some(PageSize::Size2MiB));
        assert_eq!(size_of(space, pin, FIRST + HUGE), None, "nothing was mapped there");
        assert_eq!(space.mapped_pages(), HUGE);
        let after = space.next_region(pin, at(FIRST)).unwrap();
        assert_eq!(
            (after.start(), after.length(), after.region()),
            (region.start(), region.length(), region.region())
        );
        for page in 0..HUGE {
            let expected = if [1, 2, 77, 511].contains(&page) { FIRST + page } else { 0 };
            assert_eq!(read(sim, pin, space, FIRST + page), expected);
        }
        write(sim, pin, space, FIRST + 9);
        assert_eq!(size_of(space, pin, FIRST + 9), Some(PageSize::Size2MiB), "the space's alone");
        assert_eq!(child.translate(pin, at(FIRST + 1)).unwrap().size, PageSize::Size4KiB);
        drop(child);
        // Cut again, and made one again, in part by other frames.
        space.madvise(pin, at(FIRST + 3), 1 << 12, Advice::DontNeed).unwrap().wait(pin);
        write(sim, pin, space, FIRST + 3);
        space.collapse(pin, at(FIRST), BYTES).unwrap();
        assert_eq!(size_of(space, pin, FIRST + 9), Some(PageSize::Size2MiB));
        assert_eq!(read(sim, pin, space, FIRST + 77), FIRST + 77);
    });
}

#[test]
fn what_is_of_several_regions_is_not_collapsed() {
    with_space(HugePages::Never, MEMORY, |sim, _, pin, space| {
        map(space, pin, HUGE);
        write(sim, pin, space, FIRST);
        space.mprotect(pin, at(FIRST + 3), 1 << 12, Access::READ).unwrap().wait(pin);
        assert_eq!(space.collapse(pin, at(FIRST), BYTES), Err(CollapseError::Unfit(at(FIRST))));
        space.munmap(pin, at(FIRST + 3), 1 << 12).unwrap().wait(pin);
        assert_eq!(space.collapse(pin, at(FIRST), BYTES), Err(CollapseError::Unfit(at(FIRST))));
        assert_eq!(space.mapped_pages(), 1);
        let code = MapRequest::anonymous(BYTES).access(Access::EXECUTE);
        let start = space.mmap(pin, &code.placed(Placement::Fixed(at(FIRST + 8 * HUGE)))).unwrap();
        space.on_page_fault(pin, PageFault::new(start, FaultAccess::Execute)).unwrap();
        assert_eq!(space.collapse(pin, start, BYTES), Err(CollapseError::Unfit(start)));
    });
}
