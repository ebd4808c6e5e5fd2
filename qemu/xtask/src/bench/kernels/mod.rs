//! What benches share that boot topomem's kernel and Linux in turn, on the same machines under the same emulator.

mod boots;
mod bounds;
mod host;
mod pool;
mod rows;
mod standing;
mod table;

use std::path::Path;

use serde_json::{Map, Value, json};

use super::limits::Limits;
use crate::error::Error;
use crate::run::record::{Distribution, Measurement};

use boots::Boots;

pub(super) use boots::{Measuring, Round, Subjects, machine};
pub(super) use bounds::Bounded;
pub(super) use pool::Pooled;
pub(super) use rows::{Row, Unmatched};

/// What a bench has measured so far.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    subjects: Subjects<'a>,
    limits: &'a Limits,
    unmatched: Unmatched,
    boots: Boots,
    results: Vec<Measurement>,
    rows: Vec<Row>,
}

impl<'a> Comparison<'a> {
    /// Nothing yet.
    pub(super) fn new(subjects: Subjects<'a>, limits: &'a Limits, unmatched: Unmatched) -> Self {
        if let Some(linux) = subjects.linux {
            println!("beside Linux {}", linux.release());
        }
        let (boots, results, rows) = (Boots::default(), Vec::new(), Vec::new());
        Self { subjects, limits, unmatched, boots, results, rows }
    }

    /// Measures what belongs in one table, and prints that; `legend` says what its columns mean.
    pub(super) fn part(
        &mut self,
        rounds: &[Round<'_>],
        legend: impl FnOnce(&[Row], &[Pooled]) -> Vec<String>,
    ) -> Result<(), Error> {
        let before = self.boots.boots.len();
        rounds.iter().try_for_each(|round| self.boots.run(round, self.subjects))?;
        let new = || self.boots.boots.iter().skip(before);
        let pooled = pool::over_boots(new().flat_map(|boot| boot.results.iter().cloned()).collect());
        let rows = rows::of(&pooled, self.limits, self.unmatched);
        table::table(&rows).lines().iter().for_each(|line| println!("{line}"));
        if let Some(counts) = table::counts(&rows) {
            println!();
            counts.lines().iter().for_each(|line| println!("{line}"));
        }
        legend(&rows, &pooled).iter().for_each(|line| println!("  {line}"));
        for absent in new().flat_map(|boot| &boot.absent) {
            println!("  {} has no {}, so no {}", absent.subject, absent.call, absent.case);
        }
        println!();
        self.results.extend(pooled.into_iter().map(|pooled| pooled.result));
        self.rows.extend(rows);
        Ok(())
    }

    /// How samples are spread, of all boots.
    pub(super) fn distributions(&self) -> Vec<Distribution> {
        self.boots.boots.iter().flat_map(|boot| boot.distributions.clone()).collect()
    }

    /// Prints how the targets were met, and writes the report if `json` asks for one. Did every boot give its
    /// figures?
    pub(super) fn conclude(
        self,
        command: &str,
        mut options: Map<String, Value>,
        json: Option<&Path>,
    ) -> Result<bool, Error> {
        table::verdicts(&self.rows).iter().for_each(|line| println!("{line}"));
        let disturbed = self.boots.disturbed();
        if disturbed > 0 {
            println!(
                "warning: before {disturbed} boots other programs used the host: times measure its scheduler too, \
                 which hits whoever waits more often; measure again on a free host, or compare counts"
            );
        }
        for failure in &self.boots.failures {
            println!("failed: {}; {}", failure.what, failure.place);
        }
        let succeeded = self.boots.failures.is_empty();
        let linux = self.subjects.linux.map(super::linux::Linux::release);
        options.insert("linux".to_owned(), json!(linux));
        options.insert("rows".to_owned(), json!(self.rows));
        options.insert("boots".to_owned(), json!(self.boots.boots));
        super::write(json, command, options, self.results, self.boots.failures)?;
        Ok(succeeded)
    }
}
