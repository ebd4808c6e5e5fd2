//! The kernel's own allocator of 4 KiB pages: a bitmap of the largest range of RAM, and one lock.

use crate::lock::Lock;
use crate::machine::{Machine, at};

const PAGE: u64 = 4096;

struct Pages {
    /// The first page's address.
    start: u64,
    count: u64,
    free: u64,
    /// Where the search begins.
    hint: u64,
}

static PAGES: Lock<Pages> = Lock::new(Pages { start: 0, count: 0, free: 0, hint: 0 });

/// Gives the allocator its memory: what the kernel does not occupy of the largest range of RAM.
pub(crate) fn init(machine: &Machine) {
    let image = machine.image();
    let beyond_image = |range: &core::ops::Range<u64>| {
        let start = if range.contains(&image.start) { image.end } else { range.start };
        start.next_multiple_of(PAGE)..range.end / PAGE * PAGE
    };
    let largest = machine.ram().iter().map(beyond_image).max_by_key(|range| range.end - range.start);
    let range = largest.unwrap_or(0..0);
    PAGES.with(|pages| {
        *pages = Pages { start: range.start, count: (range.end - range.start) / PAGE, free: 0, hint: 0 };
        // The bitmap lies at the start of what it is of: a byte for each page, 1 if it is taken.
        let own = pages.count.div_ceil(PAGE);
        (0..pages.count).for_each(|page| pages.set(page, page < own));
        pages.free = pages.count - own;
    });
}

/// Returns the address of `count` free pages, a multiple of their size; `count` is a power of two.
pub(crate) fn allocate(count: u64) -> Option<u64> {
    PAGES.with(|pages| {
        let bytes = count * PAGE;
        let first = pages.start.next_multiple_of(bytes) - pages.start;
        let places = (pages.count * PAGE).saturating_sub(first) / bytes;
        let begin = (pages.hint * PAGE).saturating_sub(first) / bytes;
        let place = (begin..places).chain(0..begin.min(places)).find_map(|place| {
            let page = (first + place * bytes) / PAGE;
            (page..page + count).all(|page| !pages.is_taken(page)).then_some(page)
        })?;
        (place..place + count).for_each(|page| pages.set(page, true));
        pages.free -= count;
        pages.hint = place + count;
        Some(pages.start + place * PAGE)
    })
}

/// Takes back `count` pages.
pub(crate) fn free(address: u64, count: u64) {
    PAGES.with(|pages| {
        let first = (address - pages.start) / PAGE;
        for page in first..first + count {
            assert!(pages.is_taken(page), "page {:#x} is freed twice", pages.start + page * PAGE);
            pages.set(page, false);
        }
        pages.free += count;
    });
}

/// Returns how many pages are free.
pub(crate) fn free_count() -> u64 {
    PAGES.with(|pages| pages.free)
}

impl Pages {
    fn is_taken(&self, page: u64) -> bool {
        // SAFETY: `init` wrote a byte for each page, and the lock is held.
        unsafe { at::<u8>(self.start + page).read() != 0 }
    }

    fn set(&mut self, page: u64, is_taken: bool) {
        // SAFETY: the byte lies in the map's own pages, and the lock is held.
        unsafe { at::<u8>(self.start + page).write(u8::from(is_taken)) };
    }
}
