//! Instructions of an alloc and a free, counted by callgrind.

use std::path::Path;
use std::process::Command;

use super::program;
use crate::error::Error;
use crate::record::Measurement;
use crate::workspace;

/// Who is counted, the empty loop last.
pub(super) const SUBJECTS: [&str; 5] =
    ["topomem", "topomem paranoid", "bitmap-allocator", "buddy_system_allocator", "(loop)"];

/// The function inside which callgrind counts.
const COUNTED: &str = "topomem_benches::instructions::counted_bursts*";

/// Pairs in a burst.
const BURST: u64 = 32;

/// Bursts of the two runs whose difference is taken.
const BURSTS: [u64; 2] = [1000, 3000];

/// Instructions per pair of `subject`, exactly.
pub(super) fn of_pair(bench: &Path, subject: &str) -> Result<Measurement, Error> {
    let few = count(bench, subject, BURSTS[0])?;
    let many = count(bench, subject, BURSTS[1])?;
    let pairs = (BURSTS[1] - BURSTS[0]) * BURST;
    let figure = many.saturating_sub(few) as f64 / pairs as f64;
    Ok(Measurement {
        suite: "frames".to_owned(),
        case: "instructions_pair".to_owned(),
        subject: subject.to_owned(),
        cpus: 1,
        unit: "instructions".to_owned(),
        median: figure,
        low: figure,
        high: figure,
        n: 1,
    })
}

/// Instructions of `bursts` bursts, with what happens once.
fn count(bench: &Path, subject: &str, bursts: u64) -> Result<u64, Error> {
    let counts = workspace::target_folder().join(format!("callgrind.{}", std::process::id()));
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(bench)
        .args(["bursts", "--subject", subject, "--bursts", &bursts.to_string()]);
    program::output(&mut command)?;
    let text = std::fs::read_to_string(&counts).map_err(Error::file(&counts))?;
    // A file that stays is no harm.
    let _ = std::fs::remove_file(&counts);
    summary(&text).filter(|&instructions| instructions > 0).ok_or(Error::NotCounted { what: COUNTED })
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
