//! Interrupts between CPUs, as `/proc/interrupts` counts them.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The rows of interrupts that one CPU sends to another: rescheduling and function calls. The row `TLB` counts a part
/// of the function calls, those that flushed, a second time.
const ROWS: [&str; 2] = ["RES", "CAL"];

/// Why interrupts can't be counted.
#[derive(Debug)]
pub(crate) enum InterruptsError {
    File(std::io::Error),
    /// The kernel doesn't count one kind of them.
    NoRow(&'static str),
    /// A row holds no numbers.
    NoCount(&'static str),
}

impl fmt::Display for InterruptsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "can't read /proc/interrupts: {error}"),
            Self::NoRow(row) => write!(f, "/proc/interrupts has no row {row}"),
            Self::NoCount(row) => write!(f, "the row {row} of /proc/interrupts has no counts"),
        }
    }
}

/// Counts interrupts between CPUs.
#[derive(Debug)]
pub(crate) struct Interrupts {
    file: File,
    /// Kept, so that counting doesn't allocate.
    text: Vec<u8>,
}

impl Interrupts {
    pub(crate) fn open() -> Result<Self, InterruptsError> {
        let file = File::open("/proc/interrupts").map_err(InterruptsError::File)?;
        Ok(Self { file, text: vec![0; 1 << 17] })
    }

    /// How many all CPUs have received since the machine was started.
    pub(crate) fn received(&mut self) -> Result<u64, InterruptsError> {
        let mut filled = 0;
        while let Some(rest) = self.text.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, filled as u64).map_err(InterruptsError::File)? {
                0 => break,
                count => filled += count,
            }
        }
        total(&String::from_utf8_lossy(self.text.get(..filled).unwrap_or_default()))
    }
}

/// The sum over the rows and CPUs.
fn total(text: &str) -> Result<u64, InterruptsError> {
    ROWS.iter().try_fold(0, |sum, row| Ok(sum + of_row(text, row)?))
}

fn of_row(text: &str, row: &'static str) -> Result<u64, InterruptsError> {
    let counts = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(row)?.strip_prefix(':'))
        .ok_or(InterruptsError::NoRow(row))?;
    // A count per CPU, then what the row means, in words.
    let mut counts = counts.split_whitespace().map_while(|word| word.parse::<u64>().ok()).peekable();
    match counts.peek() {
        Some(_) => Ok(counts.sum()),
        None => Err(InterruptsError::NoCount(row)),
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
    fn adds_up_what_cpus_send_each_other() {
        assert_eq!(total(TEXT).unwrap(), 109 + 88 + 1500);
    }

    #[test]
    fn misses_rows_and_counts() {
        let without = TEXT.replace("RES:", "REX:");
        assert!(matches!(total(&without), Err(InterruptsError::NoRow("RES"))));
        let empty = TEXT.replace("1000        500 ", "");
        assert!(matches!(total(&empty), Err(InterruptsError::NoCount("CAL"))));
    }
}
