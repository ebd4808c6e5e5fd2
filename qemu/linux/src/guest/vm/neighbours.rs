//! Cases beside those that have targets: other numbers of pages, and a page alone in its table.

use super::{Bench, Case, MANY, case, populated, unmap};
use crate::guest::error::GuestError;
use crate::guest::pages::{Layout, Pages};

pub(super) const CASES: [Case; 7] = [
    case("munmap_2", |bench| unmap_again(bench, 2)),
    case("munmap_16", |bench| unmap_again(bench, 16)),
    Case { parts: 2, ..case("mprotect_2", |bench| protect(bench, &beside_another(2)?)) },
    Case { parts: 2, ..case("mprotect_64", |bench| protect(bench, &beside_another(64)?)) },
    Case { parts: 2, ..case("mprotect_512", |bench| protect(bench, &beside_another(MANY)?)) },
    Case {
        parts: 2,
        ..case("mprotect_alone", |bench| protect(bench, &Pages::reserve_alone(1, Layout::Together)?))
    },
    case("dontneed_64", discard),
];

/// Unmaps pages whose frames were not zeroed ahead, but come from where they go to.
fn unmap_again(bench: &Bench, count: usize) -> Result<Vec<u64>, GuestError> {
    let _rest = populated()?;
    unmap(bench, count)
}

fn beside_another(count: usize) -> Result<Pages, GuestError> {
    Pages::reserve(count, Layout::Together)
}

/// All pages become read-only and writable again.
fn protect(bench: &Bench, pages: &Pages) -> Result<Vec<u64>, GuestError> {
    pages.map()?;
    let samples = bench.sample(|| {
        let there = bench.time(|| pages.protect_all())?;
        pages.each(Pages::read);
        let back = bench.time(|| pages.unprotect_all())?;
        pages.each(Pages::write);
        Ok(there + back)
    });
    pages.clear()?;
    samples
}

fn discard(bench: &Bench) -> Result<Vec<u64>, GuestError> {
    let pages = beside_another(64)?;
    pages.map_untouched()?;
    let samples = bench.sample(|| {
        pages.each(Pages::write);
        bench.time(|| pages.discard_all())
    });
    pages.clear()?;
    samples
}
