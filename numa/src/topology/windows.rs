//! CXL windows: nodes made of them, and nodes that already have them.

use super::discover::clamped;
use super::report::Report;
use super::{MemoryKind, Topology};
use crate::MemoryRange;
use crate::tables::{Cedt, CedtEntry, Diagnostic, Hmat, Slit, Srat, Table};

/// Below 4 GiB is boot memory on every PC.
const BOOT_MEMORY_END: u64 = 1 << 32;

impl Topology {
    /// Makes a node of every window that no domain claims any of. The rest of a partly claimed
    /// window goes to its domains.
    pub(super) fn add_windows(&mut self, cedt: &Cedt<'_>, claimed: &Claimed<'_>, report: &mut Report<'_>) {
        for entry in cedt.entries() {
            let (base, bytes) = match entry {
                Ok(CedtEntry::Window { base, bytes, .. }) => (base, bytes),
                Ok(_) => continue,
                Err(error) => {
                    report.give(error);
                    continue;
                }
            };
            let Some(range) = clamped(Table::Cedt, base, bytes, report) else { continue };
            let Some(range) = self.above_boot_memory(range, report) else { continue };
            // Firmware may have set devices up and given their memory a domain already.
            if !self.ranges.touches(&range) {
                self.add_window(range, claimed, report);
            } else if self.ranges.fill(range, MemoryKind::CxlWindow).is_err() {
                report.give(Diagnostic::TooManyRanges(range));
            }
        }
    }

    /// Returns the part of `window` that can be a separate node. Without an SRAT nothing else tells
    /// that the boot memory is node 0's.
    fn above_boot_memory(&self, window: MemoryRange, report: &mut Report<'_>) -> Option<MemoryRange> {
        if self.has_affinities {
            return Some(window);
        }
        let boot = MemoryRange::from_bounds(0, BOOT_MEMORY_END)?;
        let Some(low) = window.intersection(&boot) else { return Some(window) };
        report.give(Diagnostic::WindowOverBootMemory(low));
        MemoryRange::new(boot.end, window.end)
    }

    fn add_window(&mut self, window: MemoryRange, claimed: &Claimed<'_>, report: &mut Report<'_>) {
        if self.proximity.len() == self.node_room() {
            report.give(Diagnostic::TooManyWindows { window, most: self.node_room() });
            return;
        }
        let unused = claimed.unused(&self.proximity);
        // There is room: for as many domains as for nodes.
        let _ = self.proximity.push(unused);
        if let Some(node) = self.nodes().next_back() {
            self.add_range(window, node, MemoryKind::CxlWindow, report);
        }
    }
}

/// The tables that name proximity domains.
pub(super) struct Claimed<'a> {
    pub(super) srat: Option<Srat<'a>>,
    pub(super) slit: Option<Slit<'a>>,
    pub(super) hmat: Option<Hmat<'a>>,
}

impl Claimed<'_> {
    /// Returns the domains named by tables, some of them repeated. A SLIT names as many as it has
    /// rows, from 0.
    fn domains(&self) -> impl Iterator<Item = u32> {
        let srat = self.srat.into_iter().flat_map(|srat| srat.domains());
        let hmat = self.hmat.into_iter().flat_map(|hmat| hmat.domains());
        let slit = self.slit.map_or(0, |slit| slit.localities());
        srat.chain(hmat).chain((0..).take(slit))
    }

    /// Returns a domain that no table names and that is not in `taken`: the number above all of
    /// these, or the lowest free number if there is none above. So a device's domain is never taken
    /// for a window.
    ///
    /// Cost: linear in the tables; if there is no number above, a pass for every 4096 numbers.
    fn unused(&self, taken: &[u32]) -> u32 {
        let named = || self.domains().chain(taken.iter().copied());
        match named().max() {
            None => 0,
            Some(u32::MAX) => lowest_unused(named).unwrap_or(u32::MAX),
            Some(most) => most + 1,
        }
    }
}

/// Returns the lowest number missing from `named`.
fn lowest_unused<I: Iterator<Item = u32>>(named: impl Fn() -> I) -> Option<u32> {
    const BITS: u32 = u64::BITS;
    const WORDS: usize = 64;
    const NUMBERS: u32 = BITS * WORDS as u32;
    (0..=u32::MAX / NUMBERS).find_map(|block| {
        let mut words = [0u64; WORDS];
        for number in named().filter(|number| number / NUMBERS == block) {
            words[(number % NUMBERS / BITS) as usize] |= 1 << (number % BITS);
        }
        let word = words.iter().position(|&word| word != u64::MAX)?;
        Some(block * NUMBERS + word as u32 * BITS + words[word].trailing_ones())
    })
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_number_that_nobody_has() {
        let lowest = |named: &[u32]| lowest_unused(|| named.iter().copied());
        assert_eq!(lowest(&[]), Some(0));
        assert_eq!(lowest(&[u32::MAX, 1, 0, 3]), Some(2));
        assert_eq!(lowest_unused(|| (0..10_000).chain([u32::MAX])), Some(10_000));
        assert_eq!(lowest_unused(|| 0..4096), Some(4096));
        assert_eq!(lowest_unused(|| (0..200).filter(|&number| number != 130)), Some(130));
    }
}
