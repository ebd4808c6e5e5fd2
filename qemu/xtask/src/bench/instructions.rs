//! Instructions of an alloc and a free, of frames and of the heap, counted by callgrind.

use std::path::Path;
use std::process::Command;

use super::program;
use crate::error::Error;
use crate::run::record::Measurement;
use crate::workspace;

/// Who is counted, the empty loop last.
pub(super) const SUBJECTS: [&str; 5] =
    ["topomem", "topomem paranoid", "bitmap-allocator", "buddy_system_allocator", "(loop)"];

/// The functions inside which callgrind counts: of frames, of kernel ranges, and of the heap.
const COUNTED_BURSTS: &str = "topomem_benches::instructions::counted_bursts*";
const COUNTED_FREES: &str = "topomem_benches::instructions::counted_frees*"; // Alone and in lists.
const COUNTED_RANGES: &str = "topomem_benches::ranges::counted*";
const COUNTED_HEAP: &str = "topomem_benches::heap::counted::*";

/// What is counted of frames: the name of the case, and the order of the runs.
pub(super) const CASES: [(&str, &str); 6] = [
    ("instructions_pair", "0"),
    ("instructions_pair_far_cpu", "0-far-cpu"),
    ("instructions_order1", "1"),
    ("instructions_order3", "3"),
    ("instructions_order6", "6"),
    ("instructions_order8", "8"),
];

/// Pairs in a burst.
const BURST: u64 = 32;

/// Frames of 1 GiB, which are freed in random order.
const FREES: u64 = 256 << 10;

/// How they are freed: the name of the case, and the program's name for it.
pub(super) const FREE_CASES: [(&str, &str); 2] =
    [("instructions_free_random", "single"), ("instructions_free_list", "list")];

/// Bursts of the two runs whose difference is taken.
const BURSTS: [u64; 2] = [1000, 3000];

/// A case of the heap that is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeapCase {
    /// Its name where it is timed.
    case: &'static str,
    /// Its name here.
    counted: &'static str,
    operations: u64,
}

/// The heap's cases. Each is done so often that what happens once, a call, is nothing.
pub(super) const HEAP: [HeapCase; 9] = [
    HeapCase { case: "hot_64", counted: "instructions_hot", operations: 100_000 },
    HeapCase { case: "batch_512", counted: "instructions_batch", operations: 64 * 512 },
    HeapCase { case: "churn", counted: "instructions_churn", operations: 50_000 },
    HeapCase { case: "pc_64", counted: "instructions_pc_64", operations: 128 * 256 },
    HeapCase { case: "pc_mixed", counted: "instructions_pc_mixed", operations: 128 * 256 },
    HeapCase { case: "large_32k", counted: "instructions_large_32k", operations: 4000 },
    HeapCase { case: "large_churn", counted: "instructions_large_churn", operations: 20_000 },
    HeapCase { case: "growth", counted: "instructions_growth", operations: 20 },
    HeapCase { case: "zeroed_4k", counted: "instructions_zeroed_4k", operations: 2000 },
];

/// What is counted of kernel ranges: the name of the case, and the bench's. Each is done 64 times.
pub(super) const RANGES: [(&str, &str); 4] = [
    ("instructions_range_4m", "pair"),
    ("instructions_range_4m_scattered", "scattered"),
    ("instructions_realloc_remapped", "remapped"),
    ("instructions_realloc_copied", "copied"),
];
const RANGE_OPERATIONS: u64 = 64;

/// The function inside which callgrind counts a hardened heap, and how many pairs it makes.
const COUNTED_PAIRS: &str = "topomem_benches::hardening::counted_pairs*";
const HARDENED_PAIRS: u64 = 20_000;

/// Instructions per pair of runs of `subject` in a case of [`CASES`], exactly.
pub(super) fn of_pair(
    bench: &Path,
    subject: &str,
    (case, order): (&str, &str),
) -> Result<Measurement, Error> {
    let count = |bursts: u64| {
        let bursts = bursts.to_string();
        let arguments = ["bursts", "--subject", subject, "--order", order, "--bursts", &bursts];
        count(bench, COUNTED_BURSTS, &arguments)
    };
    let pairs = (BURSTS[1] - BURSTS[0]) * BURST;
    let figure = count(BURSTS[1])?.saturating_sub(count(BURSTS[0])?) as f64 / pairs as f64;
    Ok(measurement("frames", case, subject, figure))
}

/// Instructions per free of `subject` where 1 GiB of frames is freed in random order; those of the loop are in it.
pub(super) fn of_random_free(
    bench: &Path,
    subject: &str,
    (case, how): (&str, &str),
) -> Result<Measurement, Error> {
    let total = count(bench, COUNTED_FREES, &["frees", "--subject", subject, "--how", how])?;
    // The call is less than this.
    let figure = (total as f64 / FREES as f64 * 100.0).floor() / 100.0;
    Ok(measurement("frames", case, subject, figure))
}

/// Instructions per operation of a case of the heap on `subject`; those of the loop are in it.
pub(super) fn of_heap(bench: &Path, subject: &str, case: HeapCase) -> Result<Measurement, Error> {
    let HeapCase { case, counted, operations } = case;
    let arguments = ["--subject", subject, "--case", case, "--operations", &operations.to_string()];
    let total = count(bench, COUNTED_HEAP, &[&["heap-counted"], &arguments[..]].concat())?;
    // The call and the loop's ends are less than this.
    let figure = (total as f64 / operations as f64 * 100.0).floor() / 100.0;
    Ok(measurement("heap", counted, subject, figure))
}

/// Instructions per operation of a case of [`RANGES`].
pub(super) fn of_ranges(bench: &Path, (counted, case): (&str, &str)) -> Result<Measurement, Error> {
    let arguments = ["ranges-counted", "--case", case, "--operations", &RANGE_OPERATIONS.to_string()];
    let figure = count(bench, COUNTED_RANGES, &arguments)? as f64 / RANGE_OPERATIONS as f64;
    Ok(measurement("heap", counted, "topomem", figure.floor()))
}

/// Instructions per pair of 64 bytes of the heap with `measure` against wrong uses; those of the loop are
/// in it.
pub(super) fn of_hardened_pair(bench: &Path, measure: &str) -> Result<Measurement, Error> {
    let arguments = ["hardened", "--measure", measure, "--pairs", &HARDENED_PAIRS.to_string()];
    let figure = count(bench, COUNTED_PAIRS, &arguments)? as f64 / HARDENED_PAIRS as f64;
    Ok(measurement("heap", "instructions_hardened", measure, figure))
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
