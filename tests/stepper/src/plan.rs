//! Which stop points are worth their time.

use crate::Trace;

/// How many traps the exploration of one operation with one context may take. An operation for
/// which that is too little is stopped at regular distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    traps: u64,
    /// Only so many of the last stop points.
    last: u64,
}

/// What preparing and checking one stop costs, in traps.
const FIXED: u64 = 8;

impl Plan {
    /// About as many stops as take `traps` traps.
    #[must_use]
    pub const fn traps(traps: u64) -> Plan {
        Plan { traps, last: u64::MAX }
    }

    /// Every stop point, whatever the time.
    #[must_use]
    pub const fn exhaustive() -> Plan {
        Plan { traps: u64::MAX, last: u64::MAX }
    }

    /// Every one of the last `count` stop points: for operations that come to what is to be stopped after much else.
    #[must_use]
    pub const fn last(count: u64) -> Plan {
        Plan { traps: u64::MAX, last: count }
    }

    /// The first stop point.
    #[must_use]
    pub fn first(self, trace: &Trace<'_>) -> u64 {
        trace.len().saturating_sub(self.last)
    }

    /// The distance between the stop points.
    #[must_use]
    pub fn stride(self, trace: &Trace<'_>) -> u64 {
        (trace.traps() + trace.len() * FIXED).div_ceil(self.traps).max(1)
    }
}
