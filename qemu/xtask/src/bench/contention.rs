//! `cargo xtask bench contention`, `bench heap-contention` and `bench spaces`: what CPUs cost each other.

use serde_json::Map;

use super::comparison::cell;
use super::program::{self, Build};
use crate::cli::BenchContentionArgs;
use crate::error::Error;
use crate::report::Table;
use crate::run::record::Measurement;
use crate::workspace;

/// A suite of counts.
pub(super) struct Suite {
    /// The command of the program that counts, and of this one.
    name: &'static str,
    subjects: &'static [&'static str],
    /// What the figures are counted for.
    heading: &'static str,
    plot: &'static str,
}

/// Frames of one machine.
pub(super) const FRAMES: Suite = Suite {
    name: "contention",
    subjects: &["global-lock", "node-lock", "topomem"],
    heading: "per alloc or free",
    plot: "benches/contention.svg",
};

/// Objects of one heap.
pub(super) const HEAP: Suite = Suite {
    name: "heap-contention",
    subjects: &["spin-lock", "topomem"],
    heading: "per alloc or free",
    plot: "benches/heap-contention.svg",
};

/// Regions of one address space.
pub(super) const SPACES: Suite = Suite {
    name: "spaces",
    subjects: &["two-level", "topomem"],
    heading: "lines: per call; else per region",
    plot: "benches/spaces.svg",
};

/// Counts on all subjects at all numbers of CPUs, and draws the plot.
pub(super) fn contention(suite: &Suite, arguments: &BenchContentionArgs) -> Result<bool, Error> {
    let counting = program::build(Build::Counting)?;
    let svg = arguments.svg.clone().unwrap_or_else(|| workspace::root().join(suite.plot));
    let results = program::results(&counting, &[suite.name, "--svg", &svg.to_string_lossy()])?;
    table(suite, &results).lines().iter().for_each(|line| println!("{line}"));
    println!("  the plot: {}", workspace::shorten(&svg.to_string_lossy()));
    let command = format!("bench {}", suite.name);
    super::write(arguments.json.as_deref(), &command, Map::new(), results, Vec::new())?;
    Ok(true)
}

/// A row for each case and number of CPUs, a column for each subject.
fn table(suite: &Suite, results: &[Measurement]) -> Table {
    let heading =
        [suite.heading, "CPUs"].into_iter().chain(suite.subjects.iter().copied()).map(str::to_owned);
    let mut table = Table::with_heading(heading.collect());
    let mut rows: Vec<(&str, u32)> = Vec::new();
    for result in results {
        let row = (result.case.as_str(), result.cpus);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    // By case, in the order of the first number of CPUs.
    let cases: Vec<&str> = rows.iter().filter(|row| row.1 == rows[0].1).map(|row| row.0).collect();
    rows.sort_by_key(|row| (cases.iter().position(|case| *case == row.0), row.1));
    for (case, cpus) in rows {
        let figure = |subject: &str| {
            let its = |result: &&Measurement| {
                (result.case.as_str(), result.cpus, result.subject.as_str()) == (case, cpus, subject)
            };
            results.iter().find(its).map_or("-".to_owned(), cell)
        };
        let figures = suite.subjects.iter().map(|subject| figure(subject));
        table.row([case.to_owned(), cpus.to_string()].into_iter().chain(figures).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_by_case_and_columns_by_subject() {
        let result = |case: &str, subject: &str, cpus, median| Measurement {
            suite: "contention".to_owned(),
            case: case.to_owned(),
            subject: subject.to_owned(),
            cpus,
            unit: "per operation".to_owned(),
            median,
            low: median,
            high: median,
            n: 1,
        };
        let results = [
            result("locks_taken", "topomem", 1, 0.0),
            result("cache_lines", "topomem", 1, 0.5),
            result("locks_taken", "global-lock", 16, 1.0),
            result("cache_lines", "topomem", 16, 2.0),
        ];
        let lines = table(&FRAMES, &results).lines();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines[1]), ["locks_taken", "1", "-", "-", "0.00"]);
        assert_eq!(words(&lines[2]), ["locks_taken", "16", "1.00", "-", "-"]);
        assert_eq!(words(&lines[3]), ["cache_lines", "1", "-", "-", "0.50"]);
        assert_eq!(words(&lines[4]), ["cache_lines", "16", "-", "-", "2.00"]);
    }
}
