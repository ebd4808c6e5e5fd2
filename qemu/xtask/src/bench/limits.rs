//! What topomem's figures shall come to: `benches/limits.toml`.

use serde::Deserialize;

use crate::error::Error;
use crate::record::Measurement;
use crate::workspace;

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
    target: f64,
    bound: Option<f64>,
}

impl Limits {
    pub(super) fn load() -> Result<Self, Error> {
        let path = workspace::root().join("benches/limits.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
        toml::from_str(&text)
            .map_err(|error| Error::Limits { file: "benches/limits.toml", error: Box::new(error) })
    }

    fn of(&self, case: &str, cpus: u32) -> Option<&Limit> {
        self.limits.iter().find(|limit| limit.case == case && limit.cpus == cpus)
    }

    /// The target of a case.
    pub(super) fn target(&self, case: &str, cpus: u32) -> Option<f64> {
        self.of(case, cpus).map(|limit| limit.target)
    }

    /// Why a figure is refused, if it is: above its bound, or without one.
    pub(super) fn objection(&self, result: &Measurement) -> Option<String> {
        let Measurement { case, subject, median, unit, .. } = result;
        match self.of(case, result.cpus).and_then(|limit| limit.bound) {
            Some(bound) if *median <= bound => None,
            Some(bound) => Some(format!("{case} of {subject}: {median:.2} {unit}, bound {bound:.2}")),
            None => Some(format!("{case} of {subject}: no bound in benches/limits.toml")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(case: &str, median: f64) -> Measurement {
        Measurement {
            suite: "frames".to_owned(),
            case: case.to_owned(),
            subject: "topomem".to_owned(),
            cpus: 1,
            unit: "instructions".to_owned(),
            median,
            low: median,
            high: median,
            n: 1,
        }
    }

    #[test]
    fn a_count_over_its_bound_is_refused() {
        let text = "[[limit]]\ncase = \"a\"\ncpus = 1\ntarget = 1.0\nbound = 2.0\n\
                    [[limit]]\ncase = \"b\"\ncpus = 1\ntarget = 1.0\n";
        let limits: Limits = toml::from_str(text).unwrap();
        assert_eq!(limits.objection(&result("a", 2.0)), None);
        assert!(limits.objection(&result("a", 2.01)).unwrap().contains("2.01 instructions, bound 2.00"));
        assert!(limits.objection(&result("b", 0.0)).is_some());
        assert!(limits.objection(&result("c", 0.0)).is_some());
        assert_eq!(limits.target("b", 1), Some(1.0));
        assert_eq!(limits.target("b", 2), None);
    }

    #[test]
    fn the_files_own_limits_can_be_read() {
        let limits = Limits::load().unwrap();
        assert!(limits.of("instructions_pair", 1).unwrap().bound.is_some());
    }
}
