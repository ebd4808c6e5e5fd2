//! A step that compares counts with their bounds; each figure is a test.

use super::Outcome;
use super::tally::Tally;
use crate::bench;
use crate::error::Error;

pub(super) fn run() -> Result<Outcome, Error> {
    let (output, failed) = bench::counts_failures()?;
    output.iter().for_each(|line| println!("    {line}"));
    let passed = output.len() as u64 - failed;
    Ok(Outcome { tally: Tally { passed, failed }, output })
}
