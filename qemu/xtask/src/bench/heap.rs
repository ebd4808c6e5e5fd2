//! `cargo xtask bench heap`: times, counts and memory of the heap beside its peers.

use serde_json::json;

use super::comparison::{cell, ratio, rounded};
use super::instructions;
use super::limits::{Limits, Suite, Target};
use super::program::{self, Build};
use crate::cli::BenchTimesArgs;
use crate::error::Error;
use crate::report::Table;
use crate::run::record::Measurement;
use crate::tools::{self, Tool};

const TOPOMEM: &str = "topomem";

/// Peers that map their memory themselves. Targets are multiples of their figures.
const MAPPING: [&str; 3] = ["mimalloc", "snmalloc-rs", "tikv-jemallocator"];

/// Peers that a kernel would put a lock around.
const LOCKED: [&str; 4] = ["talc", "rlsf", "buddy_system_allocator", "linked_list_allocator"];

/// Those whose instructions are counted: snmalloc maps more than Valgrind has room for.
const COUNTED: [&str; 3] = [TOPOMEM, "mimalloc", "tikv-jemallocator"];

const LEGEND: [&str; 5] = [
    "medians (lowest tenth .. highest tenth) of samples, each in a process of its own, by turns",
    "ns: an operation of the slower thread; of churn and large_churn a free and an allocation",
    "held/live: bytes held for each that callers asked for, after churn, and (sparse) after 90 % of the objects \
     were freed at random and the heap was told to reclaim. topomem's are frames that are not free, and all \
     bookkeeping, exactly; a peer's are what the process has of the machine's memory, so pages that it maps and \
     never touches do not count",
    "%: of what was held, what went back when all objects were freed, and (returned_reclaim) after reclaim",
    "instructions: counted by callgrind with the bench's loop, which is 21 of instructions_hot",
];

/// Measures all cases on all subjects.
pub(super) fn heap(arguments: &BenchTimesArgs) -> Result<bool, Error> {
    tools::ensure(&[Tool::Valgrind, Tool::Compilers])?;
    let limits = Limits::load(Suite::Frames)?;
    let bench = program::build(Build::Peers)?;
    let times: &[&str] = if arguments.quick { &["heap", "--quick"] } else { &["heap"] };
    println!("timing: {}", if arguments.quick { "a minute" } else { "several minutes" });
    let mut results = program::results(&bench, times)?;
    println!("counting instructions");
    for case in instructions::HEAP {
        for subject in COUNTED {
            results.push(instructions::of_heap(&bench, subject, case)?);
        }
    }
    for case in instructions::RANGES {
        results.push(instructions::of_ranges(&bench, case)?);
    }
    for table in [judged(&results, &limits), beside(&results, &LOCKED)] {
        table.lines().iter().for_each(|line| println!("{line}"));
        println!();
    }
    LEGEND.iter().for_each(|line| println!("  {line}"));
    let options = json!({ "quick": arguments.quick, "profile": "measure" });
    let options = options.as_object().cloned().unwrap_or_default();
    super::write(arguments.json.as_deref(), "bench heap", options, results, Vec::new())?;
    Ok(true)
}

/// topomem's rows.
fn rows(results: &[Measurement]) -> impl Iterator<Item = &Measurement> {
    results.iter().filter(|result| result.subject == TOPOMEM)
}

/// The figure of `subject` in the row of `own`.
fn figure<'r>(results: &'r [Measurement], own: &Measurement, subject: &str) -> Option<&'r Measurement> {
    results
        .iter()
        .find(|result| result.subject == subject && result.case == own.case && result.cpus == own.cpus)
}

/// topomem beside the peers that map their memory, with what was aimed at.
fn judged(results: &[Measurement], limits: &Limits) -> Table {
    let heading = [&["case", "CPUs", "unit", TOPOMEM], &MAPPING[..], &["goal", "is", ""]].concat();
    let mut table = Table::with_heading(heading.into_iter().map(str::to_owned).collect());
    for own in rows(results) {
        let mut row = vec![own.case.clone(), own.cpus.to_string(), own.unit.clone(), cell(own)];
        let shown = |peer: &&str| figure(results, own, peer).map_or("-".to_owned(), cell);
        row.extend(MAPPING.iter().map(shown));
        row.extend(standing(results, own, limits));
        table.row(row);
    }
    table
}

/// What topomem's figure is to come to, what it came to, and whether that is enough.
fn standing(results: &[Measurement], own: &Measurement, limits: &Limits) -> [String; 3] {
    let nothing = || "-".to_owned();
    let verdict = |is_met: bool| if is_met { "met" } else { "MISSED" }.to_owned();
    if let Some(least) = limits.at_least(own) {
        return [format!(">= {least}"), rounded(own.median), verdict(own.median >= least)];
    }
    match limits.target(own) {
        None => [nothing(), nothing(), String::new()],
        Some(Target { at_most, of: None }) => {
            [format!("<= {at_most}"), rounded(own.median), verdict(own.median <= at_most)]
        }
        Some(Target { at_most, of: Some(yardstick) }) => {
            let goal = format!("<= {at_most} x {}", yardstick.subject);
            let its = figure(results, own, &yardstick.subject).map(|its| own.median / its.median);
            let is = its.map_or_else(nothing, |is| format!("{is:.2} x"));
            [goal, is, its.map_or("open".to_owned(), |is| verdict(is <= at_most))]
        }
    }
}

/// topomem beside `peers`, each with how many times topomem's figure its own is.
fn beside(results: &[Measurement], peers: &[&str]) -> Table {
    let mut heading: Vec<String> = ["case", "CPUs", "unit", TOPOMEM].map(str::to_owned).to_vec();
    peers.iter().for_each(|peer| heading.extend([(*peer).to_owned(), "ratio".to_owned()]));
    let mut table = Table::with_heading(heading);
    for own in rows(results) {
        let figures: Vec<_> = peers.iter().map(|peer| figure(results, own, peer)).collect();
        if figures.iter().all(Option::is_none) {
            continue;
        }
        let mut row = vec![own.case.clone(), own.cpus.to_string(), own.unit.clone(), cell(own)];
        for its in figures {
            row.extend(its.map_or(["-".to_owned(), "-".to_owned()], |its| [cell(its), ratio(own, its)]));
        }
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::limits::tests::{limits, result};

    const LIMITS: &str = "[[limit]]\ncase = \"a\"\ncpus = 1\ntarget = 1.5\n\
                          of = { subject = \"mimalloc\", case = \"a\" }\n\
                          [[limit]]\ncase = \"a\"\ncpus = 2\ntarget = 1.5\n\
                          of = { subject = \"snmalloc-rs\", case = \"a\" }\n\
                          [[limit]]\ncase = \"b\"\ncpus = 1\ntarget_at_least = 90\n\
                          [[limit]]\ncase = \"c\"\ncpus = 1\ntarget = 80\n";

    fn words(table: &Table) -> Vec<String> {
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        table.lines().iter().map(words).collect()
    }

    #[test]
    fn goals_are_multiples_numbers_and_floors() {
        let all = [
            result("a", "topomem", 1, (4.0, "ns")),
            result("a", "mimalloc", 1, (2.0, "ns")),
            result("a", "mimalloc", 2, (9.0, "ns")),
            result("a", "topomem", 2, (4.0, "ns")),
            result("b", "topomem", 1, (95.0, "%")),
            result("c", "topomem", 1, (80.0, "instructions")),
        ];
        assert_eq!(
            words(&judged(&all, &limits(LIMITS))),
            [
                "case CPUs unit topomem mimalloc snmalloc-rs tikv-jemallocator goal is",
                "a 1 ns 4.00 (2.00 .. 8.00) 2.00 (1.00 .. 4.00) - - <= 1.5 x mimalloc 2.00 x MISSED",
                "a 2 ns 4.00 (2.00 .. 8.00) 9.00 (4.50 .. 18.00) - - <= 1.5 x snmalloc-rs - open",
                "b 1 % 95.0 (47.5 .. 190.0) - - - >= 90 95.0 met",
                "c 1 instructions 80.0 (40.0 .. 160.0) - - - <= 80 80.0 met",
            ]
        );
    }

    #[test]
    fn rows_without_a_figure_are_left_out() {
        let all = [
            result("a", "topomem", 1, (4.0, "ns")),
            result("a", "talc", 1, (8.0, "ns")),
            result("b", "topomem", 1, (95.0, "%")),
        ];
        assert_eq!(
            words(&beside(&all, &["talc"])),
            ["case CPUs unit topomem talc ratio", "a 1 ns 4.00 (2.00 .. 8.00) 8.00 (4.00 .. 16.00) 2.00"]
        );
    }
}
