//! Which caches hold which line: an invalidating protocol (MESI) without evictions.

use std::collections::HashMap;

/// Bytes in a cache line.
pub(super) const LINE: usize = 64;

/// The caches that hold a line, a bit for each CPU.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<usize, u64>);

/// How an access uses its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    /// Also of a compare-and-swap that fails: the line is fetched to be written.
    Write,
}

/// Did an access need another CPU's cache?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// No: by its own, or by memory, if no cache had the line.
    Alone,
    /// Yes: the line came from there, or had to be invalidated there.
    ByOthers,
}

impl Lines {
    /// CPU `cpu` uses the line of `address`.
    pub(super) fn access(&mut self, cpu: usize, address: usize, access: Use) -> Served {
        let own = 1 << cpu;
        let holders = self.0.entry(address / LINE).or_default();
        let needs_others = match access {
            Use::Read => *holders & own == 0 && *holders != 0,
            Use::Write => *holders & !own != 0,
        };
        *holders = match access {
            Use::Read => *holders | own,
            Use::Write => own,
        };
        if needs_others { Served::ByOthers } else { Served::Alone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_cache_has_costs() {
        let mut lines = Lines::default();
        assert_eq!(lines.access(0, 64, Use::Read), Served::Alone, "from memory");
        assert_eq!(lines.access(0, 127, Use::Write), Served::Alone, "held alone");
        assert_eq!(lines.access(1, 128, Use::Write), Served::Alone, "another line");
        assert_eq!(lines.access(1, 100, Use::Read), Served::ByOthers);
        assert_eq!(lines.access(1, 100, Use::Read), Served::Alone, "now shared");
        assert_eq!(lines.access(0, 100, Use::Write), Served::ByOthers, "the copy must go");
        assert_eq!(lines.access(0, 100, Use::Write), Served::Alone);
        assert_eq!(lines.access(1, 100, Use::Write), Served::ByOthers);
    }
}
