//! Which stop points are worth their time.

use crate::Trace;

/// How many traps the exploration of one operation with one context may take. An operation for
/// which that is too little is stopped at regular distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    traps: u64,
}

/// What preparing and checking one stop costs, in traps.
const FIXED: u64 = 8;

impl Plan {
    /// About as many stops as take `traps` traps.
    #[must_use]
    pub const fn traps(traps: u64) -> Plan {
        Plan { traps }
    }

    /// Every stop point, whatever the time.
    #[must_use]
    pub const fn exhaustive() -> Plan {
        Plan { traps: u64::MAX }
    }

    /// The distance between the stop points.
    #[must_use]
    pub fn stride(self, trace: &Trace<'_>) -> u64 {
        (trace.traps() + trace.len() * FIXED).div_ceil(self.traps).max(1)
    }
}
