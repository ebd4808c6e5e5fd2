//! Ranges of kernel addresses and the page tables that serve these addresses.
// Whole machines take Miri too long.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, missing_docs)]

mod range_support;

use range_support::{
    MEGABYTE, Range, addresses, booted, booted_with, check_guards, check_pages, give_back, leave_frames,
    number_pages,
};
use topomem::ranges::{RangeRequest, RangesConfig};
use topomem::{CpuId, PageSize};

/// A large page in a table's place would need a wait for all CPUs, so single pages serve there.
#[test]
fn addresses_with_tables_get_single_pages() {
    let (sim, service, ranges) = booted_with(1, 64 * MEGABYTE, &RangesConfig::of(addresses(8)));
    sim.on(CpuId::BOOT, |pin| {
        let size =
            |range: &Range| service.kernel_space().unwrap().translate(pin, range.start()).unwrap().size;
        let long = || ranges.allocate(pin, &RangeRequest::pages(600)).unwrap();
        assert_eq!(size(&long()), PageSize::Size2MiB, "no table is there yet");
        while ranges.flush(pin).waiting {}
        // Pages everywhere: each 2 MiB gets a table, which stays.
        drop(
            std::iter::from_fn(|| ranges.allocate(pin, &RangeRequest::pages(1)).ok()).collect::<Vec<Range>>(),
        );
        let range = long();
        check_guards(sim, &range);
        number_pages(sim, range.start(), 0..600);
        check_pages(sim, range.start(), 0..600);
        assert_eq!(size(&range), PageSize::Size4KiB);
        ranges.validate(pin).unwrap();
    });
}

#[test]
fn a_range_finds_frames_for_tables_in_freed_ones() {
    let (sim, service, ranges) = booted(1);
    sim.on(CpuId::BOOT, |pin| {
        // At the low end; the high end, where short ranges lie, has no table yet.
        let long = ranges.allocate(pin, &RangeRequest::pages(3000)).unwrap();
        let taken = leave_frames(service, pin, 40);
        drop(long);
        let range = ranges.allocate(pin, &RangeRequest::pages(40)).unwrap();
        check_guards(sim, &range);
        ranges.validate(pin).unwrap();
        drop(range);
        give_back(service, pin, taken);
    });
}
