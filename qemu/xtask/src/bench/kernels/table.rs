//! What is printed: a table of times or instructions, one of counts, and how the targets were met.

use super::pool::{COUNTS, TIME};
use super::rows::{Cell, Goal, LINUX, Row, TOPOMEM};
use super::standing::Verdict;
use crate::bench::comparison::rounded;
use crate::report::Table;

const HEADING: [&str; 14] = [
    "case",
    "CPUs",
    "unit",
    "N",
    "topomem",
    "median",
    "bare",
    "linux",
    "median",
    "ratio",
    "of medians",
    "target",
    "is",
    "",
];
const NOTHING: &str = "-";

/// All but the counts, without the columns that nobody has anything for.
pub(in crate::bench) fn table(rows: &[Row]) -> Table {
    let rows: Vec<_> = rows.iter().filter(|row| !is_count(row)).map(cells).collect();
    let is_used = |column: &usize| rows.iter().any(|row| row[*column] != NOTHING);
    let used: Vec<usize> = (0..HEADING.len()).filter(is_used).collect();
    let chosen = |cells: &dyn Fn(usize) -> String| used.iter().map(|&column| cells(column)).collect();
    let mut table = Table::with_heading(chosen(&|column| HEADING[column].to_owned()));
    rows.iter().for_each(|row| table.row(chosen(&|column| row[column].clone())));
    table
}

/// The counts, a row for each case and subject; `None` where nothing was counted.
pub(in crate::bench) fn counts(rows: &[Row]) -> Option<Table> {
    let mut cases: Vec<(&str, u32)> = Vec::new();
    for row in rows.iter().filter(|row| is_count(row)) {
        if !cases.contains(&(&row.case, row.cpus)) {
            cases.push((&row.case, row.cpus));
        }
    }
    let columns = ["case", "CPUs", "subject", "N"].into_iter().chain(COUNTS).chain(["target", ""]);
    let mut table = Table::with_heading(columns.map(str::to_owned).collect());
    for &(case, cpus) in &cases {
        let of = |unit: &str| {
            rows.iter().find(|row| (row.case.as_str(), row.cpus, row.unit.as_str()) == (case, cpus, unit))
        };
        for subject in [TOPOMEM, LINUX] {
            let cells = COUNTS.map(|unit| of(unit).and_then(|row| row.of(subject)));
            let Some(any) = cells.iter().flatten().next() else { continue };
            let goals = COUNTS.map(|unit| of(unit).and_then(|row| Some((unit, row.goal.clone()?))));
            // Targets are topomem's.
            let goal = goals.into_iter().flatten().find(|_| subject == TOPOMEM);
            let (target, verdict) = goal.map_or_else(
                || (NOTHING.to_owned(), NOTHING),
                |(unit, goal)| (format!("{} {unit}", target(&goal)), goal.verdict.name()),
            );
            let mut row = vec![case.to_owned(), cpus.to_string(), subject.to_owned(), samples(any)];
            row.extend(cells.map(|cell| cell.map_or_else(|| NOTHING.to_owned(), |cell| figure(&cell, ""))));
            row.extend([target, verdict.to_owned()]);
            table.row(row);
        }
    }
    (!cases.is_empty()).then_some(table)
}

/// How many targets were met, and each that was not.
pub(super) fn verdicts(rows: &[Row]) -> Vec<String> {
    let judged: Vec<_> = rows.iter().filter_map(|row| Some((row, row.goal.as_ref()?))).collect();
    let with = |verdict| judged.iter().filter(move |(_, goal)| goal.verdict == verdict);
    let mut lines = vec![format!("{} of {} targets met", with(Verdict::Met).count(), judged.len())];
    for verdict in [Verdict::Missed, Verdict::Open] {
        lines.extend(with(verdict).map(|(row, goal)| {
            let Row { case, cpus, unit, .. } = row;
            format!(
                "{}: {case} on {cpus} CPUs, {unit}: {}, target {}",
                verdict.name(),
                is(goal),
                target(goal)
            )
        }));
    }
    lines
}

fn is_count(row: &Row) -> bool {
    COUNTS.contains(&row.unit.as_str())
}

fn cells(row: &Row) -> [String; HEADING.len()] {
    let nothing = || NOTHING.to_owned();
    let shown = |cell: Option<Cell>| cell.map_or_else(nothing, |cell| figure(&cell, &row.unit));
    let median =
        |cell: Option<Cell>| cell.filter(|_| row.unit == TIME).map_or_else(nothing, |cell| spread(&cell));
    let n: Vec<String> = [row.topomem, row.bare, row.linux].iter().flatten().map(samples).collect();
    let (target, is, verdict) = row.goal.as_ref().map_or_else(
        || (nothing(), nothing(), nothing()),
        |goal| (target(goal), is(goal), goal.verdict.name().to_owned()),
    );
    let ratio = |ratio: Option<f64>| ratio.map_or_else(nothing, |ratio| format!("{ratio:.3}"));
    let is_same = n.iter().all(|one| Some(one) == n.first());
    [
        row.case.clone(),
        row.cpus.to_string(),
        row.unit.clone(),
        if is_same { n.first().cloned().unwrap_or_default() } else { n.join(" | ") },
        shown(row.topomem),
        median(row.topomem),
        shown(row.bare),
        shown(row.linux),
        median(row.linux),
        ratio(row.ratio),
        ratio(row.ratio_of_medians.filter(|_| row.unit == TIME)),
        target,
        is,
        verdict,
    ]
}

/// Boots and samples.
fn samples(cell: &Cell) -> String {
    if cell.boots == 1 { cell.samples.to_string() } else { format!("{} x {}", cell.boots, cell.samples) }
}

/// A median, and of several boots how far theirs are from it.
fn spread(cell: &Cell) -> String {
    let median = rounded(cell.median);
    if cell.boots == 1 { median } else { format!("{median} ± {}", rounded(cell.deviation)) }
}

/// What is judged, with its spread over the boots.
fn figure(cell: &Cell, unit: &str) -> String {
    let figure = rounded(cell.figure);
    match unit {
        _ if cell.least == cell.most => figure,
        TIME => format!("{figure} (.. {})", rounded(cell.most)),
        _ => format!("{figure} ({} .. {})", rounded(cell.least), rounded(cell.most)),
    }
}

fn target(goal: &Goal) -> String {
    match &goal.of {
        None => format!("<= {}", goal.at_most),
        Some((subject, case)) => format!("<= {} x {subject} {case}", goal.at_most),
    }
}

fn is(goal: &Goal) -> String {
    let Some(reached) = goal.reached else { return NOTHING.to_owned() };
    let of = if goal.of.is_some() { " x" } else { "" };
    let reached = if reached < 10.0 { format!("{reached:.3}") } else { rounded(reached) };
    format!("{reached}{of}")
}

#[cfg(test)]
mod tests {
    use super::super::pool::over_boots;
    use super::super::rows::{self, Unmatched};
    use super::*;
    use crate::bench::limits::tests::{limits, result};

    const LIMITS: &str = "[[limit]]\ncase = \"a\"\ncpus = 2\nunit = \"us\"\ntarget = 0.65\n\
                          of = { subject = \"linux\", case = \"a\" }\n\
                          [[limit]]\ncase = \"a\"\ncpus = 2\nunit = \"IPIs\"\ntarget = 1\n\
                          [[limit]]\ncase = \"b\"\ncpus = 2\nunit = \"us\"\ntarget = 0.1\n\
                          of = { subject = \"linux\", case = \"none\" }\n";

    fn rows() -> Vec<Row> {
        let all = over_boots(vec![
            result("a", "topomem", 2, (8.0, "us")),
            result("a", "topomem", 2, (12.0, "us")),
            result("a", "linux", 2, (20.0, "us")),
            result("a", "topomem", 2, (1.5, "IPIs")),
            result("a", "linux", 2, (1.0, "IPIs")),
            result("a", "topomem", 2, (0.0, "elisions")),
            result("b", "topomem", 2, (3.0, "us")),
        ]);
        rows::of(&all, &limits(LIMITS), Unmatched::LeftOut)
    }

    fn words(table: &Table) -> Vec<String> {
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        table.lines().iter().map(words).collect()
    }

    #[test]
    fn times_are_beside_each_other() {
        assert_eq!(
            words(&table(&rows())),
            [
                "case CPUs unit N topomem median linux median ratio of medians target is",
                "a 2 us 2 x 10 | 10 4.00 (.. 6.00) 8.00 ± 0.00 10.0 20.0 0.400 0.400 <= 0.65 x linux a 0.400 x met",
                "b 2 us 10 1.50 3.00 - - - - <= 0.1 x linux none - open",
            ]
        );
    }

    #[test]
    fn counts_are_below_each_other() {
        assert_eq!(
            words(&counts(&rows()).unwrap()),
            [
                "case CPUs subject N IPIs ICR writes full flushes partial flushes elisions target",
                "a 2 topomem 10 1.50 - - - 0.00 <= 1 IPIs MISSED",
                "a 2 linux 10 1.00 - - - - - -",
            ]
        );
        let times: Vec<Row> = rows().into_iter().filter(|row| row.unit == TIME).collect();
        assert!(counts(&times).is_none());
    }

    #[test]
    fn what_was_not_met_is_named() {
        assert_eq!(
            verdicts(&rows()),
            [
                "1 of 3 targets met",
                "MISSED: a on 2 CPUs, IPIs: 1.500, target <= 1",
                "open: b on 2 CPUs, us: -, target <= 0.1 x linux none",
            ]
        );
    }
}
