//! What topomem's figures shall come to, alone and beside others': `benches/shootdown.toml`.

use serde::Deserialize;

use super::pool::Pooled;
use crate::error::Error;
use crate::record::Measurement;
use crate::workspace;

const FILE: &str = "benches/shootdown.toml";

/// All limits.
#[derive(Debug, Deserialize)]
pub(super) struct Limits {
    #[serde(rename = "limit")]
    limits: Vec<Limit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    case: String,
    cpus: u32,
    unit: String,
    target: Option<f64>,
    /// Whose figure the target is a multiple of.
    of: Option<Yardstick>,
    bound: Option<f64>,
}

/// Another figure in the same unit, on as many CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Yardstick {
    pub(super) subject: String,
    pub(super) case: String,
}

/// How a figure stands to its target.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    pub(super) target: f64,
    pub(super) of: Option<Yardstick>,
    /// In the target's terms; `None` where there is nothing to compare with.
    pub(super) reached: Option<f64>,
}

impl Limits {
    pub(super) fn load() -> Result<Self, Error> {
        let path = workspace::root().join(FILE);
        let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
        toml::from_str(&text).map_err(|error| Error::Limits { file: FILE, error: Box::new(error) })
    }

    fn of(&self, result: &Measurement) -> Option<&Limit> {
        let Measurement { case, cpus, unit, .. } = result;
        self.limits.iter().find(|limit| (&limit.case, &limit.cpus, &limit.unit) == (case, cpus, unit))
    }

    /// How topomem's figure `own`, one of `all`, stands to its target.
    pub(super) fn standing(&self, own: &Pooled, all: &[Pooled]) -> Option<Standing> {
        let limit = self.of(&own.result)?;
        let target = limit.target?;
        let reached = match &limit.of {
            None => Some(own.judged()),
            Some(Yardstick { subject, case }) => {
                let of = |other: &&Pooled| {
                    let Measurement { cpus, unit, .. } = &own.result;
                    let result = &other.result;
                    (&result.subject, &result.case, &result.cpus, &result.unit) == (subject, case, cpus, unit)
                };
                all.iter().find(of).map(Pooled::judged).filter(|&its| its > 0.0).map(|its| own.judged() / its)
            }
        };
        Some(Standing { target, of: limit.of.clone(), reached })
    }

    /// Why a figure is refused, if it is: above its bound, or without one.
    pub(super) fn objection(&self, result: &Measurement) -> Option<String> {
        let Measurement { case, cpus, unit, median, .. } = result;
        let what = format!("{case} on {cpus} CPUs: {median:.1} {unit}");
        match self.of(result).and_then(|limit| limit.bound) {
            Some(bound) if *median <= bound => None,
            Some(bound) => Some(format!("{what}, bound {bound:.1}")),
            None => Some(format!("{what}, no bound in {FILE}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::over_boots;
    use super::super::pool::tests::result;
    use super::*;

    const TEXT: &str = "[[limit]]\ncase = \"a\"\ncpus = 2\nunit = \"us\"\ntarget = 0.5\n\
                        of = { subject = \"linux\", case = \"b\" }\n\
                        [[limit]]\ncase = \"a\"\ncpus = 1\nunit = \"instructions\"\ntarget = 7\nbound = 9\n";

    #[test]
    fn stands_to_a_number_or_to_anothers_figure() {
        let limits: Limits = toml::from_str(TEXT).unwrap();
        let all = over_boots(vec![
            result("a", "topomem", 2, (4.0, "us")),
            result("a", "topomem", 1, (8.0, "instructions")),
            result("b", "linux", 2, (10.0, "us")),
            result("b", "linux", 2, (1.0, "IPIs")),
        ]);
        let reached = |own: &Pooled, all| limits.standing(own, all).map(|standing| standing.reached);
        assert_eq!(reached(&all[0], &all), Some(Some(0.4)));
        assert_eq!(reached(&all[0], &all[..2]), Some(None));
        assert_eq!(reached(&all[1], &all), Some(Some(8.0)));
        assert_eq!(reached(&all[2], &all), None);
    }

    #[test]
    fn a_count_over_its_bound_or_without_one_is_refused() {
        let limits: Limits = toml::from_str(TEXT).unwrap();
        let count = |median, cpus| result("a", "topomem", cpus, (median, "instructions"));
        assert_eq!(limits.objection(&count(9.0, 1)), None);
        assert!(limits.objection(&count(9.5, 1)).unwrap().contains("9.5 instructions, bound 9.0"));
        assert!(limits.objection(&count(1.0, 2)).unwrap().contains("no bound"));
    }

    #[test]
    fn the_files_own_limits_can_be_read() {
        let limits = Limits::load().unwrap();
        let protect = result("protect_1", "topomem", 1, (1.0, "instructions"));
        assert!(limits.of(&protect).unwrap().bound.is_some());
    }
}
