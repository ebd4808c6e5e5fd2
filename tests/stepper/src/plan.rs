//! Which stop points are worth their time.

/// How many traps the exploration of one operation with one context may take.
///
/// To stop after instruction n takes n traps, so all n stop points of an operation take n²/2. An
/// operation for which that is too much is stopped at regular distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    traps: u64,
}

impl Plan {
    /// At most `traps` traps, or about that many.
    #[must_use]
    pub const fn traps(traps: u64) -> Plan {
        Plan { traps }
    }

    /// Every stop point, whatever the time.
    #[must_use]
    pub const fn exhaustive() -> Plan {
        Plan { traps: u64::MAX }
    }

    /// The distance between the stop points of an operation of `instructions`.
    #[must_use]
    pub fn stride(self, instructions: u64) -> u64 {
        (instructions.saturating_mul(instructions) / 2).div_ceil(self.traps).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_operations_are_stopped_everywhere() {
        assert_eq!(Plan::traps(20_000).stride(200), 1);
        assert_eq!(Plan::exhaustive().stride(1 << 20), 1);
        assert_eq!(Plan::traps(20_000).stride(0), 1);
    }

    #[test]
    fn long_ones_stay_within_the_number_of_traps() {
        for instructions in [201, 1000, 12_345] {
            let stride = Plan::traps(20_000).stride(instructions);
            assert!(stride > 1);
            let taken: u64 = (0..instructions).step_by(stride as usize).sum();
            // A stride is a whole number, and the first stop point takes a trap, too.
            assert!(taken <= 20_000 + instructions, "{instructions}");
        }
    }
}
