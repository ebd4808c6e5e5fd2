//! topomem's figures beside others', one row for each.

use serde::Serialize;

use super::pool::Pooled;
use super::standing::{Standing, Verdict};
use crate::bench::limits::Limits;

pub(super) const LINUX: &str = "linux";
const BARE: &str = "bare";
pub(super) const TOPOMEM: &str = "topomem";

/// Everything that is known of one figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::bench) struct Row {
    pub(in crate::bench) case: String,
    pub(in crate::bench) cpus: u32,
    pub(in crate::bench) unit: String,
    pub(in crate::bench) topomem: Option<Cell>,
    /// A bare interrupt.
    pub(in crate::bench) bare: Option<Cell>,
    pub(in crate::bench) linux: Option<Cell>,
    /// topomem's figure over Linux's.
    pub(in crate::bench) ratio: Option<f64>,
    /// The same of the medians.
    pub(in crate::bench) ratio_of_medians: Option<f64>,
    pub(in crate::bench) goal: Option<Goal>,
}

/// One subject's figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(in crate::bench) struct Cell {
    /// What is judged.
    pub(in crate::bench) figure: f64,
    /// The same of the boot where it is lowest, and where it is highest.
    pub(in crate::bench) least: f64,
    pub(in crate::bench) most: f64,
    /// The median of all boots, and how far the boots' medians are from it in the median.
    pub(in crate::bench) median: f64,
    pub(in crate::bench) deviation: f64,
    pub(in crate::bench) boots: usize,
    /// Samples of each boot.
    pub(in crate::bench) samples: u64,
}

/// What topomem's figure is to come to, and what it came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::bench) struct Goal {
    pub(in crate::bench) at_most: f64,
    /// The subject and the case whose figure that is a multiple of.
    pub(in crate::bench) of: Option<(String, String)>,
    pub(in crate::bench) reached: Option<f64>,
    pub(in crate::bench) verdict: Verdict,
}

impl Row {
    /// The figure of topomem or of Linux.
    pub(super) fn of(&self, subject: &str) -> Option<Cell> {
        match subject {
            TOPOMEM => self.topomem,
            LINUX => self.linux,
            _ => None,
        }
    }
}

impl From<&Pooled> for Cell {
    fn from(pooled: &Pooled) -> Self {
        let (least, most) = pooled.boots;
        let Pooled { result, deviation, number, per_boot, .. } = pooled;
        let figure = pooled.judged();
        Self {
            figure,
            least,
            most,
            median: result.median,
            deviation: *deviation,
            boots: *number,
            samples: *per_boot,
        }
    }
}

impl From<Standing<'_>> for Goal {
    fn from(standing: Standing<'_>) -> Self {
        let target = standing.target;
        Self {
            at_most: target.at_most,
            of: target.of.map(|of| (of.subject.clone(), of.case.clone())),
            reached: standing.reached,
            verdict: standing.verdict(),
        }
    }
}

/// What becomes of Linux's figures of cases that topomem has none of on as many CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Unmatched {
    LeftOut,
    Shown,
}

/// A row for each figure that somebody has.
pub(super) fn of(all: &[Pooled], limits: &Limits, unmatched: Unmatched) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for pooled in all {
        let result = &pooled.result;
        let is_same_case =
            |other: &&Pooled| (&other.result.case, other.result.cpus) == (&result.case, result.cpus);
        let is_known = unmatched == Unmatched::Shown
            || all.iter().filter(is_same_case).any(|other| other.result.subject != LINUX);
        let is_there = rows
            .iter()
            .any(|row| (&row.case, row.cpus, &row.unit) == (&result.case, result.cpus, &result.unit));
        if is_known && !is_there {
            rows.push(row(pooled, all, limits));
        }
    }
    rows
}

fn row(any: &Pooled, all: &[Pooled], limits: &Limits) -> Row {
    let of = |subject: &str| {
        all.iter().find(|other| other.result.subject == subject && other.is_beside(&any.result))
    };
    let (own, its) = (of(TOPOMEM), of(LINUX));
    let ratio = own.zip(its).filter(|(_, its)| its.judged() > 0.0);
    Row {
        case: any.result.case.clone(),
        cpus: any.result.cpus,
        unit: any.result.unit.clone(),
        topomem: own.map(Cell::from),
        bare: of(BARE).map(Cell::from),
        linux: its.map(Cell::from),
        ratio: ratio.map(|(own, its)| own.judged() / its.judged()),
        ratio_of_medians: ratio.map(|(own, its)| own.result.median / its.result.median),
        goal: own.and_then(|own| Standing::of(own, all, limits)).map(Goal::from),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::over_boots;
    use super::*;
    use crate::bench::limits::tests::{limits, result};

    #[test]
    fn a_row_has_all_subjects_and_the_verdict() {
        let all = over_boots(vec![
            result("protect_wait", "topomem", 2, (8.0, "us")),
            result("protect_wait", "linux", 2, (20.0, "us")),
            result("protect_wait", "topomem", 2, (12.0, "us")),
            result("protect_wait", "linux", 2, (1.0, "IPIs")),
            result("protect_wait", "linux", 4, (99.0, "us")),
        ]);
        let limits = limits(
            "[[limit]]\ncase = \"protect_wait\"\ncpus = 2\nunit = \"us\"\ntarget = 0.65\n\
             of = { subject = \"linux\", case = \"protect_wait\" }\n",
        );
        let rows = of(&all, &limits, Unmatched::LeftOut);
        assert_eq!(rows.len(), 2, "not that of Linux on 4 CPUs");
        let time = &rows[0];
        let own =
            Cell { figure: 4.0, least: 4.0, most: 6.0, median: 8.0, deviation: 0.0, boots: 2, samples: 10 };
        assert_eq!((time.topomem, time.ratio, time.bare), (Some(own), Some(0.4), None));
        let of = Some(("linux".to_owned(), "protect_wait".to_owned()));
        let goal = Goal { at_most: 0.65, of, reached: Some(0.4), verdict: Verdict::Met };
        assert_eq!(time.goal, Some(goal));
        assert_eq!(super::of(&all, &limits, Unmatched::Shown).len(), 3);
        assert_eq!((rows[1].topomem, rows[1].ratio, rows[1].goal.clone()), (None, None, None));
    }
}
