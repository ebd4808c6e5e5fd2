//! `cargo xtask bench hardening`: what the heap's measures against wrong uses cost.

use std::path::Path;
use std::process::Command;

use super::instructions;
use super::program::{self, Build};
use crate::error::Error;
use crate::tools::{self, Tool};

/// The measures by feature, between none and all.
const MEASURES: [&str; 7] =
    ["none", "poison", "red-zones", "quarantine", "zero-on-free", "leak-tracking", "all"];

/// Counts instructions of a pair, and bytes of a block, with each measure.
pub(super) fn hardening() -> Result<bool, Error> {
    tools::ensure(&[Tool::Valgrind])?;
    let bench = program::build(Build::Hardened)?;
    println!("an alloc and a free of 64 bytes, the bench's loop in it");
    println!("  {:<18}{:>12}{:>16}", "measure", "instructions", "bytes a block");
    for measure in MEASURES {
        count(&bench, measure, measure)?;
    }
    // All heaps of a build have encoded lists, or none has.
    let bench = program::build(Build::EncodedLists)?;
    count(&bench, "none", "encoded-free-lists")?;
    count(&bench, "all", "all and encoded")?;
    Ok(true)
}

fn count(bench: &Path, measure: &str, name: &str) -> Result<(), Error> {
    let pair = instructions::of_hardened_pair(bench, measure)?;
    println!("  {name:<20}{:>10.0}{:>16}", pair.median, block_bytes(bench, measure)?);
    Ok(())
}

fn block_bytes(bench: &Path, measure: &str) -> Result<String, Error> {
    let mut command = Command::new(bench);
    command.args(["hardened", "--measure", measure, "--pairs", "1"]);
    Ok(program::output(&mut command)?.trim().to_owned())
}
