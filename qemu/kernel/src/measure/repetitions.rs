//! How often each kind of case is measured, by the command line: the runner asks all subjects for
//! the same.

use crate::boot::command_line::CommandLine;

use super::MeasureError;

/// Samples of each kind of case; none where it is not to be measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repetitions {
    /// Single changes.
    pub changes: usize,
    /// Bursts that are waited for once.
    pub bursts: usize,
    /// Rounds of changes in flight.
    pub in_flight: usize,
    /// Rounds beside idle CPUs.
    pub idle: usize,
}

/// Of so many samples that are timed, one is taken again to be counted.
const TIMED_PER_COUNTED: usize = 10;

impl Repetitions {
    /// As the runner asks.
    ///
    /// # Errors
    ///
    /// The word that is missing.
    pub(super) fn of(words: CommandLine<'_>) -> Result<Repetitions, MeasureError> {
        let number = |key| {
            let number = words.number(key).ok_or(MeasureError::NotAsked(key))?;
            Ok::<_, MeasureError>(number as usize)
        };
        Ok(Repetitions {
            changes: number("changes")?,
            bursts: number("bursts")?,
            in_flight: number("in_flight")?,
            idle: number("idle")?,
        })
    }
}

/// How many samples are counted where `timed` are timed.
pub(super) const fn counted(timed: usize) -> usize {
    timed.div_ceil(TIMED_PER_COUNTED)
}
