//! The owners of addresses.

use topomem_shootdown::{PageRange, PageSize, VirtAddr};

use crate::page_table::{Format, Level, Pages, Privilege, Protection};

/// The kind of a space: the kernel's own, or a program's.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::address_space::SpaceKind;
///
/// assert_eq!(service.kernel_space().unwrap().kind(), SpaceKind::Kernel);
/// # let _ = pin;
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceKind {
    /// All addresses that are not programs': shared by all spaces. The upper half, unless boot says otherwise.
    Kernel,
    /// Programs' addresses, of its own.
    User,
}

impl SpaceKind {
    pub(crate) fn permits(self, protection: Protection) -> bool {
        match self {
            SpaceKind::Kernel => protection.privilege() == Privilege::Kernel,
            SpaceKind::User => protection.privilege() == Privilege::User,
        }
    }
}

/// Returns `programs` without the first page (in the lower half: null pointers fault) and the last page (no
/// instruction may end at the hole, which some processors mistreat on return from a system call).
pub(crate) fn user_bounds(programs: Pages) -> Pages {
    Pages { first: programs.first + 1, last: programs.last - 1 }
}

/// Returns the pages that programs have unless boot says otherwise.
pub(crate) fn lower_half<F: Format>() -> Pages {
    Pages { first: 0, last: (1 << (F::ROOT.address_bits() - 1 - 12)) - 1 }
}

/// Returns all pages below the kernel's root entries, by address, if programs have `programs` of the lower half.
pub(super) fn kernel_parts<F: Format>(programs: Pages) -> [Option<Pages>; 3] {
    let (lower, end) = (lower_half::<F>(), 1 << (u64::BITS - 12));
    [
        (programs.first > 0).then(|| Pages { first: 0, last: programs.first - 1 }),
        (programs.last < lower.last).then(|| Pages { first: programs.last + 1, last: lower.last }),
        Some(Pages { first: end - lower.count(), last: end - 1 }),
    ]
}

#[inline]
pub(crate) fn pages_of(range: PageRange) -> Pages {
    Pages { first: range.start().as_u64() >> 12, last: range.last_byte().as_u64() >> 12 }
}

/// Returns the range for TLB flushes of `pages`, in covering pages of `level`.
#[inline]
pub(crate) fn range_of(pages: Pages, level: Level) -> PageRange {
    let start = VirtAddr::new_truncate(pages.first << 12);
    let size = size_of_level(level);
    let whole = PageRange::spanning(start, VirtAddr::new_truncate(pages.last << 12), size);
    // Page numbers come from a range within a half, so the result is a valid range.
    debug_assert!(whole.is_some(), "{pages:?}");
    whole.unwrap_or(PageRange::page(start, size))
}

/// Returns the range of `pages` by address, in pages of 4 KiB.
#[inline]
pub(crate) fn range_of_pages(pages: Pages) -> PageRange {
    range_of(pages, Level::PAGE)
}

pub(crate) fn level_of(size: PageSize) -> Level {
    match size {
        PageSize::Size4KiB => Level::PAGE,
        PageSize::Size2MiB => Level::HUGE,
        PageSize::Size1GiB => Level::GIANT,
    }
}

#[inline]
pub(crate) fn size_of_level(level: Level) -> PageSize {
    if level == Level::PAGE {
        PageSize::Size4KiB
    } else if level == Level::HUGE {
        PageSize::Size2MiB
    } else {
        PageSize::Size1GiB
    }
}
