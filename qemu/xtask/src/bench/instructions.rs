//! Instructions of an alloc and a free, of frames and of the heap, counted by callgrind.

use std::path::Path;
use std::process::Command;

use super::program;
use crate::error::Error;
use crate::record::Measurement;
use crate::workspace;

/// Who is counted, the empty loop last.
pub(super) const SUBJECTS: [&str; 5] =
    ["topomem", "topomem paranoid", "bitmap-allocator", "buddy_system_allocator", "(loop)"];

/// The functions inside which callgrind counts: of frames, and of the heap.
const COUNTED_BURSTS: &str = "topomem_benches::instructions::counted_bursts*";
const COUNTED_PAIRS: &str = "topomem_benches::heap::counted_pairs*";

/// Pairs in a burst.
const BURST: u64 = 32;

/// Bursts of the two runs whose difference is taken.
const BURSTS: [u64; 2] = [1000, 3000];

/// Pairs of the two runs of the heap whose difference is taken.
const PAIRS: [u64; 2] = [1000, 3000];

/// Instructions per pair of frames of `subject`, exactly.
pub(super) fn of_pair(bench: &Path, subject: &str) -> Result<Measurement, Error> {
    let count = |bursts: u64| {
        count(bench, COUNTED_BURSTS, &["bursts", "--subject", subject, "--bursts", &bursts.to_string()])
    };
    let pairs = (BURSTS[1] - BURSTS[0]) * BURST;
    let figure = count(BURSTS[1])?.saturating_sub(count(BURSTS[0])?) as f64 / pairs as f64;
    Ok(measurement("frames", "instructions_pair", subject, figure))
}

/// Instructions per pair of 64 bytes of the heap, exactly; those of the loop that makes them are in it.
pub(super) fn of_heap_pair(bench: &Path) -> Result<Measurement, Error> {
    let subject = "topomem";
    let count = |pairs: u64| {
        count(bench, COUNTED_PAIRS, &["pairs", "--subject", subject, "--pairs", &pairs.to_string()])
    };
    let figure = count(PAIRS[1])?.saturating_sub(count(PAIRS[0])?) as f64 / (PAIRS[1] - PAIRS[0]) as f64;
    Ok(measurement("heap", "instructions_hot", subject, figure))
}

fn measurement(suite: &str, case: &str, subject: &str, figure: f64) -> Measurement {
    Measurement {
        suite: suite.to_owned(),
        case: case.to_owned(),
        subject: subject.to_owned(),
        cpus: 1,
        unit: "instructions".to_owned(),
        median: figure,
        low: figure,
        high: figure,
        n: 1,
    }
}

/// Instructions inside `counted` of a run of the bench, with what happens once.
fn count(bench: &Path, counted: &'static str, arguments: &[&str]) -> Result<u64, Error> {
    let counts = workspace::target_folder().join(format!("callgrind.{}", std::process::id()));
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={counted}"))
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(bench)
        .args(arguments);
    program::output(&mut command)?;
    let text = std::fs::read_to_string(&counts).map_err(Error::file(&counts))?;
    // A file that stays is no harm.
    let _ = std::fs::remove_file(&counts);
    summary(&text).filter(|&instructions| instructions > 0).ok_or(Error::NotCounted { what: counted })
}

/// The total that callgrind's output file states.
fn summary(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("summary: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn reads_the_total() {
        assert_eq!(summary("version: 1\nevents: Ir\nsummary: 8967059\n\ntotals: 8967059\n"), Some(8_967_059));
        assert_eq!(summary("version: 1\nevents: Ir\n"), None);
    }
}
