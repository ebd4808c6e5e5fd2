//! Counting what passed and what failed.

use std::fmt;
use std::ops::AddAssign;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// Tests that could not run here, and why is said.
    pub(super) skipped: u64,
}

impl Tally {
    pub(super) const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    pub(super) const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    pub(super) const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };

    /// What a line like `test result: ok. 3 passed; 0 failed; …` says.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |name: &str| {
            counts.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse::<u64>().ok())
        };
        Some(Self { passed: count(" passed")?, failed: count(" failed")?, skipped: 0 })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(f, ", {} skipped", self.skipped) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_results_of_the_test_harness() {
        let ok =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.60s";
        assert_eq!(Tally::parse(ok), Some(Tally { passed: 12, failed: 0, skipped: 0 }));
        let failed = "test result: FAILED. 33 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Tally::parse(failed), Some(Tally { passed: 33, failed: 2, skipped: 0 }));
        for other in [
            "",
            "running 3 tests",
            "test result: ok",
            "test a ... ok",
            "say test result: ok. 1 passed; 0 failed",
        ] {
            assert_eq!(Tally::parse(other), None, "{other}");
        }
    }

    #[test]
    fn adds_up() {
        let mut tally = Tally::PASSED;
        tally += Tally::FAILED;
        tally += Tally { passed: 3, failed: 0, skipped: 0 };
        assert_eq!(tally.to_string(), "4 passed, 1 failed");
        tally += Tally::SKIPPED;
        assert_eq!(tally.to_string(), "4 passed, 1 failed, 1 skipped");
    }
}
