//! The entries of the record of runs: two bytes tell the run that starts at a page.

use crate::slab::SizeClass;
use crate::{NodeId, RunLength};

/// A run that starts at a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) enum Run {
    /// A slab.
    Slab(SizeClass),
    /// A large object.
    Large(LargeRun),
    /// A run kept by a CPU for the next large object.
    Cached(LargeRun),
}

/// The run of a large object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) struct LargeRun {
    pub(in crate::heap) length: RunLength,
    /// The requested node.
    pub(in crate::heap) home: Home,
}

/// The number of nodes whose runs CPUs keep: an entry has six bits for the node.
const NEAR_HOMES: usize = 64;

/// The node that a run was requested on, as far as the record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) enum Home {
    /// A node numbered below 64.
    Near(u8),
    /// Another node. No CPU keeps such runs, so none needs to know which node.
    Far,
}

impl Home {
    pub(in crate::heap) const fn of(node: NodeId) -> Home {
        if node.index() < NEAR_HOMES { Home::Near(node.index() as u8) } else { Home::Far }
    }
}

/// An entry: 0 if nothing starts at the page; a slab's class plus one; or the bits of a large run. A run of a far home has
/// the bit of cached runs alone, as it is never cached.
pub(super) const NOTHING: u16 = 0;
const LARGE: u16 = 1 << 15;
const CACHED: u16 = 1 << 14;
const HOME_SHIFT: u32 = 8;
const LENGTH_MASK: u16 = (1 << HOME_SHIFT) - 1;

const _: () = assert!(NEAR_HOMES <= 64 && crate::slab::CLASS_COUNT < LENGTH_MASK as usize);

impl LargeRun {
    /// Returns the entry of a large object.
    #[inline]
    pub(super) const fn live(self) -> u16 {
        let home = match self.home {
            Home::Near(home) => LARGE | (home as u16) << HOME_SHIFT,
            Home::Far => CACHED,
        };
        home | self.length.index() as u16
    }

    #[inline]
    pub(super) const fn cached(self) -> u16 {
        self.live() | CACHED
    }
}

impl Run {
    pub(super) const fn encode(self) -> u16 {
        match self {
            Run::Slab(class) => 1 + class.index() as u16,
            Run::Large(run) => run.live(),
            Run::Cached(run) => run.cached(),
        }
    }

    pub(super) fn decode(entry: u16) -> Option<Run> {
        if entry & (LARGE | CACHED) == 0 {
            return SizeClass::new(usize::from(entry).checked_sub(1)?).map(Run::Slab);
        }
        let length = RunLength::new(usize::from(entry & LENGTH_MASK))?;
        if entry & LARGE == 0 {
            return Some(Run::Large(LargeRun { length, home: Home::Far }));
        }
        let run = LargeRun { length, home: Home::Near(((entry & !(LARGE | CACHED)) >> HOME_SHIFT) as u8) };
        Some(if entry & CACHED == 0 { Run::Large(run) } else { Run::Cached(run) })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic; no unsafe code")]
    fn an_entry_says_what_was_recorded() {
        let homes = || (0..crate::MAX_NODES).filter_map(NodeId::new).map(Home::of);
        let large = || homes().flat_map(|home| RunLength::all().map(move |length| LargeRun { length, home }));
        let cached = large().filter(|run| run.home != Home::Far).map(Run::Cached);
        let mut entries = std::collections::BTreeMap::new();
        for run in SizeClass::all().map(Run::Slab).chain(large().map(Run::Large)).chain(cached) {
            assert_eq!(Run::decode(run.encode()), Some(run));
            assert_eq!(*entries.entry(run.encode()).or_insert(run), run, "two runs have one entry");
        }
        assert_eq!(Run::decode(NOTHING), None);
    }
}
