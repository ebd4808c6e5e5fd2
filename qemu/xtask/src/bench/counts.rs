//! The exact figures alone: what a regression test can hold on to.

use super::instructions;
use super::limits::{Limits, Suite};
use super::program::{self, Build};
use crate::error::Error;
use crate::run::record::Measurement;

/// topomem's exact figures: instructions of frames, heap and kernel ranges, atomics, bookkeeping, and what the heap holds.
fn counts() -> Result<Vec<Measurement>, Error> {
    let bench = program::build(Build::Measuring)?;
    let mut results = Vec::new();
    for case in instructions::CASES {
        results.push(instructions::of_pair(&bench, "topomem", case)?);
    }
    for case in instructions::FREE_CASES {
        results.push(instructions::of_random_free(&bench, "topomem", case)?);
    }
    for case in instructions::HEAP {
        results.push(instructions::of_heap(&bench, "topomem", case)?);
    }
    for case in instructions::RANGES {
        results.push(instructions::of_ranges(&bench, case)?);
    }
    results.extend(program::results(&bench, &["metadata"])?);
    results.extend(program::results(&bench, &["heap-held"])?);
    results.extend(program::results(&program::build(Build::Counting)?, &["hits"])?);
    results.retain(|result| result.subject == "topomem");
    Ok(results)
}

/// Counts, and compares with the bounds: what is said of each figure, and how many are refused.
pub(crate) fn failures() -> Result<(Vec<String>, u64), Error> {
    let limits = Limits::load(Suite::Frames)?;
    let mut lines = Vec::new();
    let mut refused = 0;
    for result in counts()? {
        match limits.objection(&result) {
            Some(objection) => {
                refused += 1;
                lines.push(format!("refused: {objection}"));
            }
            None => lines.push(format!("{}: {:.2} {}", result.case, result.median, result.unit)),
        }
    }
    Ok((lines, refused))
}
