//! Function calls between CPUs, which carry flushes, as `/proc/interrupts` counts their interrupts.

use std::fmt;

use super::pseudo_file::PseudoFile;

/// The row of function calls. The row `TLB` counts a part of them, those that flushed, a second time; `RES` counts
/// wake-ups, which are no part of a change.
const ROW: &str = "CAL";

/// Why interrupts can't be counted.
#[derive(Debug)]
pub(crate) enum InterruptsError {
    File(std::io::Error),
    /// The kernel doesn't count them.
    NoRow,
    /// The row holds no numbers.
    NoCount,
}

impl fmt::Display for InterruptsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "can't read /proc/interrupts: {error}"),
            Self::NoRow => write!(f, "/proc/interrupts has no row {ROW}"),
            Self::NoCount => write!(f, "the row {ROW} of /proc/interrupts has no counts"),
        }
    }
}

/// Counts interrupts between CPUs.
#[derive(Debug)]
pub(crate) struct Interrupts(PseudoFile);

impl Interrupts {
    pub(crate) fn open() -> Result<Self, InterruptsError> {
        PseudoFile::open("/proc/interrupts").map(Self).map_err(InterruptsError::File)
    }

    /// How many all CPUs have received since the machine was started.
    pub(crate) fn received(&mut self) -> Result<u64, InterruptsError> {
        total(&self.0.read().map_err(InterruptsError::File)?)
    }
}

/// The sum over the CPUs.
fn total(text: &str) -> Result<u64, InterruptsError> {
    let counts = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(ROW)?.strip_prefix(':'))
        .ok_or(InterruptsError::NoRow)?;
    // A count per CPU, then what the row means, in words.
    let mut counts = counts.split_whitespace().map_while(|word| word.parse::<u64>().ok()).peekable();
    match counts.peek() {
        Some(_) => Ok(counts.sum()),
        None => Err(InterruptsError::NoCount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU1
  0:         43          0   IO-APIC   2-edge      timer
NMI:          0          0   Non-maskable interrupts
RES:        109         88   Rescheduling interrupts
CAL:       1000        500   Function call interrupts
TLB:          7          5   TLB shootdowns
MIS:          0
";

    #[test]
    fn adds_up_what_cpus_receive() {
        assert_eq!(total(TEXT).unwrap(), 1500);
    }

    #[test]
    fn misses_rows_and_counts() {
        let without = TEXT.replace("CAL:", "CAX:");
        assert!(matches!(total(&without), Err(InterruptsError::NoRow)));
        let empty = TEXT.replace("1000        500 ", "");
        assert!(matches!(total(&empty), Err(InterruptsError::NoCount)));
    }
}
