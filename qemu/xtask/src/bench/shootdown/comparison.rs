//! topomem beside Linux, a row for each figure.

use super::limits::{Limits, Standing};
use super::pool::{Pooled, TIME};
use crate::bench::comparison::rounded;
use crate::bench::metric::Metric;
use crate::report::Table;

const HEADING: [&str; 11] =
    ["case", "CPUs", "unit", "topomem", "median", "bare", "linux", "median", "ratio", "target", "is"];
const NOTHING: &str = "-";
const LINUX: &str = "linux";

/// Figures as a table, without the columns that nobody has anything for, and without Linux's figures of cases that
/// topomem has none of on as many CPUs.
pub(super) fn table(all: &[Pooled], limits: &Limits) -> Table {
    let mut rows: Vec<[String; HEADING.len()]> = Vec::new();
    let mut seen: Vec<&Pooled> = Vec::new();
    for pooled in all {
        let is_of_same_case = |other: &&Pooled| {
            (&other.result.case, other.result.cpus) == (&pooled.result.case, pooled.result.cpus)
        };
        let is_known = all.iter().filter(is_of_same_case).any(|other| other.result.subject != LINUX);
        if !is_known || seen.iter().any(|other| other.is_beside(&pooled.result)) {
            continue;
        }
        seen.push(pooled);
        rows.push(row(pooled, all, limits));
    }
    let is_used = |column: &usize| rows.iter().any(|row| row[*column] != NOTHING);
    let used: Vec<usize> = (0..HEADING.len()).filter(is_used).collect();
    let chosen = |cells: &dyn Fn(usize) -> String| used.iter().map(|&column| cells(column)).collect();
    let mut table = Table::with_heading(chosen(&|column| HEADING[column].to_owned()));
    rows.iter().for_each(|row| table.row(chosen(&|column| row[column].clone())));
    table
}

fn row(any: &Pooled, all: &[Pooled], limits: &Limits) -> [String; HEADING.len()] {
    let of = |subject: &str| {
        all.iter().find(|other| other.result.subject == subject && other.is_beside(&any.result))
    };
    let nothing = || NOTHING.to_owned();
    let figure = |subject| of(subject).map_or_else(nothing, figure);
    let median = |subject| {
        let time = of(subject).filter(|pooled| pooled.result.unit == TIME);
        time.map_or_else(nothing, |pooled| rounded(pooled.result.median))
    };
    let ratio = match (of("topomem"), of(LINUX)) {
        (Some(own), Some(its)) if its.judged() > 0.0 => format!("{:.3}", own.judged() / its.judged()),
        _ => nothing(),
    };
    let standing = of("topomem").and_then(|own| limits.standing(own, all));
    let (target, is) =
        standing.as_ref().map_or_else(|| (nothing(), nothing()), |standing| (target(standing), is(standing)));
    let result = &any.result;
    [
        result.case.clone(),
        result.cpus.to_string(),
        result.unit.clone(),
        figure("topomem"),
        median("topomem"),
        figure("bare"),
        figure(LINUX),
        median(LINUX),
        ratio,
        target,
        is,
    ]
}

/// What is judged, with its spread over the boots.
fn figure(pooled: &Pooled) -> String {
    let (least, most) = pooled.boots;
    let figure = rounded(pooled.judged());
    match pooled.result.unit.as_str() {
        _ if least == most => figure,
        TIME => format!("{figure} (.. {})", rounded(most)),
        _ => format!("{figure} ({} .. {})", rounded(least), rounded(most)),
    }
}

fn target(standing: &Standing) -> String {
    match &standing.of {
        None => format!("{}", standing.target),
        Some(of) => format!("{} x {} {}", standing.target, of.subject, of.case),
    }
}

fn is(standing: &Standing) -> String {
    match standing.reached {
        None => NOTHING.to_owned(),
        Some(reached) => {
            let verdict = if reached <= standing.target { "met" } else { "missed" };
            let of = if standing.of.is_some() { " x" } else { "" };
            let reached = if reached < 10.0 { format!("{reached:.3}") } else { rounded(reached) };
            format!("{reached}{of}, {verdict}")
        }
    }
}

/// What the columns mean.
pub(super) fn legend(metric: Metric, all: &[Pooled]) -> Vec<String> {
    let ratio = "ratio: topomem's figure over Linux's".to_owned();
    match metric {
        Metric::Instructions => {
            let bare = "bare: one interrupt to all other CPUs, counted by each".to_owned();
            let call = all.iter().find(|pooled| pooled.result.case == "empty_syscall").map(|call| {
                let empty = rounded(call.judged());
                format!("linux: with the system call, as programs have no other way; an empty one is {empty}")
            });
            ["instructions: of all CPUs".to_owned(), bare].into_iter().chain(call).chain([ratio]).collect()
        }
        Metric::Time => vec![
            "us: the lowest tenth (with several boots, of the best, and up to the worst), then the median"
                .to_owned(),
            "counts: per change, those of burst16_wait per burst; linux unmap_issue is its protect_wait"
                .to_owned(),
            ratio,
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::over_boots;
    use super::super::pool::tests::result;
    use super::*;

    #[test]
    fn a_row_has_all_subjects_and_the_verdict() {
        let all = over_boots(vec![
            result("protect_wait", "topomem", 2, (8.0, "us")),
            result("protect_wait", "topomem", 2, (12.0, "us")),
            result("protect_wait", "linux", 2, (20.0, "us")),
            result("protect_wait", "linux", 2, (1.0, "IPIs")),
            result("protect_wait", "linux", 4, (99.0, "us")),
        ]);
        let lines = table(&all, &Limits::load().unwrap()).lines();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(lines.len(), 3);
        assert_eq!(words(&lines[0]), "case CPUs unit topomem median linux median ratio target is");
        assert_eq!(
            words(&lines[1]),
            "protect_wait 2 us 4.00 (.. 6.00) 8.00 10.0 20.0 0.400 0.65 x linux protect_wait 0.400 x, met"
        );
        assert_eq!(words(&lines[2]), "protect_wait 2 IPIs - - 1.00 - - - -");
    }
}
