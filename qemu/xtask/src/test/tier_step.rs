//! A step that boots the second kernel.

use super::Outcome;
use super::tally::Tally;
use crate::error::Error;
use crate::tiers::{self, Tier};

/// It passes if the kernel ends with success.
pub(super) fn run(tier: Tier) -> Result<Outcome, Error> {
    let (mut output, objection) = tiers::run(tier)?;
    Ok(match objection {
        None => {
            let told = |line: &&String| ["preemptions", "boot stack"].iter().any(|word| line.contains(word));
            output.iter().filter(told).for_each(|line| println!("    {line}"));
            Outcome { tally: Tally::PASSED, output }
        }
        Some(objection) => {
            output.push(objection);
            Outcome { tally: Tally::FAILED, output }
        }
    })
}
