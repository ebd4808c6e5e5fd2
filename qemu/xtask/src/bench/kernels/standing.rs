//! How topomem's figures stand to what they are to come to.

use serde::Serialize;

use super::pool::Pooled;
use crate::bench::limits::{Limits, Target, Yardstick};
use crate::run::record::Measurement;

/// How a figure stands to its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Standing<'l> {
    pub(super) target: Target<'l>,
    /// In the target's terms; `None` where there is nothing to compare with.
    pub(super) reached: Option<f64>,
}

/// Is a target met?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::bench) enum Verdict {
    Met,
    Missed,
    /// What it is a multiple of was not measured.
    Open,
}

impl Verdict {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::Open => "open",
        }
    }
}

impl<'l> Standing<'l> {
    /// How topomem's figure `own`, one of `all`, stands to its target; `None` where it has none.
    pub(super) fn of(own: &Pooled, all: &[Pooled], limits: &'l Limits) -> Option<Self> {
        let target = limits.target(&own.result)?;
        let reached = match target.of {
            None => Some(own.judged()),
            Some(Yardstick { subject, case }) => {
                let is_meant = |other: &&Pooled| {
                    let Measurement { cpus, unit, .. } = &own.result;
                    let result = &other.result;
                    (&result.subject, &result.case, &result.cpus, &result.unit) == (subject, case, cpus, unit)
                };
                let its = all.iter().find(is_meant).map(Pooled::judged).filter(|&its| its > 0.0);
                its.map(|its| own.judged() / its)
            }
        };
        Some(Self { target, reached })
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.reached {
            None => Verdict::Open,
            Some(reached) if reached <= self.target.at_most => Verdict::Met,
            Some(_) => Verdict::Missed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::over_boots;
    use super::*;
    use crate::bench::limits::tests::{limits, result};

    const TEXT: &str = "[[limit]]\ncase = \"a\"\ncpus = 2\nunit = \"us\"\ntarget = 0.3\n\
                        of = { subject = \"linux\", case = \"b\" }\n\
                        [[limit]]\ncase = \"a\"\ncpus = 1\nunit = \"instructions\"\ntarget = 8\n";

    #[test]
    fn stands_to_a_number_or_to_anothers_figure() {
        let limits = limits(TEXT);
        let all = over_boots(vec![
            result("a", "topomem", 2, (4.0, "us")),
            result("a", "topomem", 1, (8.0, "instructions")),
            result("b", "linux", 2, (10.0, "us")),
            result("b", "linux", 2, (1.0, "IPIs")),
        ]);
        let standing = |own: &Pooled, all| {
            Standing::of(own, all, &limits).map(|standing| (standing.reached, standing.verdict()))
        };
        assert_eq!(standing(&all[0], &all), Some((Some(0.4), Verdict::Missed)));
        assert_eq!(standing(&all[0], &all[..2]), Some((None, Verdict::Open)));
        assert_eq!(standing(&all[1], &all), Some((Some(8.0), Verdict::Met)));
        assert_eq!(standing(&all[2], &all), None);
    }
}
