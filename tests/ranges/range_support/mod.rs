//! Machines with ranges of kernel addresses, and what tests look at in them.
#![allow(dead_code, clippy::unwrap_used)]

use topomem::ranges::{KernelRange, KernelRanges, RangesConfig};
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, FrameRequest, Order, PageRange, PageSize, VirtAddr};

pub(crate) const MEGABYTE: u64 = 1 << 20;

pub(crate) type Ranges = KernelRanges<&'static Sim>;
pub(crate) type Range = KernelRange<&'static Sim>;

/// 256 MiB of addresses, unless a test says otherwise.
pub(crate) fn addresses(megabytes: u64) -> PageRange {
    let start = at(Sim::WINDOW, 256 << 30);
    PageRange::new(start, megabytes / 2, PageSize::Size2MiB).unwrap()
}

pub(crate) fn booted_with(
    cpus: usize,
    memory: u64,
    config: &RangesConfig,
) -> (&'static Sim, &'static SimService, &'static Ranges) {
    let sim = Sim::builder().nodes(1).cpus(cpus).memory(memory).build().unwrap();
    let service = sim.boot_service().unwrap();
    let ranges = sim.on(CpuId::BOOT, |pin| service.add_kernel_ranges(pin, config).unwrap());
    (sim, service, ranges)
}

pub(crate) fn booted(cpus: usize) -> (&'static Sim, &'static SimService, &'static Ranges) {
    booted_with(cpus, 64 * MEGABYTE, &RangesConfig::of(addresses(256)).heap_from(4 * MEGABYTE))
}

pub(crate) fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

/// The address `bytes` behind `start`, or before it.
pub(crate) fn at(start: VirtAddr, bytes: i64) -> VirtAddr {
    VirtAddr::new_truncate(start.as_u64().wrapping_add_signed(bytes))
}

pub(crate) fn page(start: VirtAddr, index: u64) -> VirtAddr {
    at(start, (index * 4096) as i64)
}

/// Writes the number of each page to it.
pub(crate) fn number_pages(sim: &Sim, start: VirtAddr, pages: std::ops::Range<u64>) {
    pages.for_each(|index| sim.store(at(page(start, index), 8), 7 * index).unwrap());
}

pub(crate) fn check_pages(sim: &Sim, start: VirtAddr, pages: std::ops::Range<u64>) {
    pages.for_each(|index| assert_eq!(sim.load(at(page(start, index), 8)), Ok(7 * index), "{index}"));
}

/// The pages of `range`, and no others around them, are mapped.
pub(crate) fn check_guards(sim: &Sim, range: &Range) {
    let start = range.start();
    assert!(sim.load(at(start, -8)).is_err() && sim.load(at(start, range.bytes() as i64)).is_err());
    for index in 0..range.pages() {
        assert!(sim.load(page(start, index)).is_ok(), "{index}");
    }
}

/// Flushes until nothing waits: each CPU answers when it is about.
pub(crate) fn settle(sim: &'static Sim, ranges: &'static Ranges) {
    for _ in 0..3 {
        sim.run(|pin| {
            sim.take_interrupts();
            ranges.flush(pin)
        });
    }
    assert!(sim.on(CpuId::BOOT, |pin| !ranges.flush(pin).waiting));
}

/// Takes frames until the service has none, then gives back `left`.
pub(crate) fn leave_frames(
    service: &'static SimService,
    pin: &CpuPin,
    left: usize,
) -> Vec<topomem::PhysFrame> {
    let mut taken = Vec::new();
    while let Ok(frame) = service.frames().alloc(pin, &FrameRequest::frame()) {
        taken.push(frame);
    }
    give_back(service, pin, taken.split_off(taken.len().saturating_sub(left)));
    taken
}

pub(crate) fn give_back(service: &'static SimService, pin: &CpuPin, frames: Vec<topomem::PhysFrame>) {
    // SAFETY: allocated as single frames, and mapped nowhere.
    frames.into_iter().for_each(|frame| unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap());
}
