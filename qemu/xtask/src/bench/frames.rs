//! `cargo xtask bench frames`: times and counts of the frame allocator.

use serde_json::json;

use super::comparison;
use super::instructions;
use super::limits::{Limits, Suite};
use super::program::{self, Build};
use crate::cli::BenchTimesArgs;
use crate::error::Error;
use crate::tools::{self, Tool};

/// Measures all cases on all subjects.
pub(super) fn frames(arguments: &BenchTimesArgs) -> Result<bool, Error> {
    tools::ensure(&[Tool::Valgrind])?;
    let limits = Limits::load(Suite::Frames)?;
    let bench = program::build(Build::Measuring)?;
    let counting = program::build(Build::Counting)?;
    let times: &[&str] = if arguments.quick { &["frames", "--quick"] } else { &["frames"] };
    println!("timing: {}", if arguments.quick { "less than a minute" } else { "a few minutes" });
    let mut results = program::results(&bench, times)?;
    println!("counting instructions");
    for case in instructions::CASES {
        for subject in instructions::SUBJECTS {
            results.push(instructions::of_pair(&bench, subject, case)?);
        }
    }
    for case in instructions::FREE_CASES {
        for subject in instructions::SUBJECTS {
            results.push(instructions::of_random_free(&bench, subject, case)?);
        }
    }
    results.extend(program::results(&counting, &["hits"])?);
    results.extend(program::results(&bench, &["metadata"])?);

    comparison::table(&results, &limits).lines().iter().for_each(|line| println!("{line}"));
    if let Some(empty) = results.iter().find(|result| result.subject == "(loop)") {
        println!(
            "  of instructions_pair, the bench's own loop is {:.1} with an empty allocator",
            empty.median
        );
    }
    let options = json!({ "quick": arguments.quick, "profile": "measure" });
    let options = options.as_object().cloned().unwrap_or_default();
    super::write(arguments.json.as_deref(), "bench frames", options, results, Vec::new())?;
    Ok(true)
}
