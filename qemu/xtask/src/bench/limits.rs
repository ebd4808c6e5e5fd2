//! What topomem's figures shall come to: the files of limits in `benches/`.

use serde::Deserialize;

use crate::error::Error;
use crate::run::record::Measurement;
use crate::workspace;

/// A bench that has a file of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suite {
    Frames,
    Shootdown,
    Vm,
}

impl Suite {
    const fn file(self) -> &'static str {
        match self {
            Self::Frames => "benches/limits.toml",
            Self::Shootdown => "benches/shootdown.toml",
            Self::Vm => "benches/vm.toml",
        }
    }
}

/// All limits of a bench.
#[derive(Debug)]
pub(super) struct Limits {
    file: &'static str,
    limits: Vec<Limit>,
}

/// A file's content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "limit")]
    limits: Vec<Limit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    case: String,
    cpus: u32,
    /// Which of the case's figures; not needed where it has one.
    unit: Option<String>,
    target: Option<f64>,
    /// The same of a figure that shall be large.
    target_at_least: Option<f64>,
    /// Whose figure the target is a multiple of.
    of: Option<Yardstick>,
    bound: Option<f64>,
    /// The same of a figure that shall be large.
    bound_at_least: Option<f64>,
}

/// Another figure in the same unit, on as many CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Yardstick {
    pub(super) subject: String,
    pub(super) case: String,
}

/// What a figure is to come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Target<'l> {
    pub(super) at_most: f64,
    /// If there is one, `at_most` is a multiple of its figure.
    pub(super) of: Option<&'l Yardstick>,
}

impl Limits {
    pub(super) fn load(suite: Suite) -> Result<Self, Error> {
        let path = workspace::root().join(suite.file());
        let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
        Self::parse(suite.file(), &text)
    }

    fn parse(file: &'static str, text: &str) -> Result<Self, Error> {
        let File { limits } =
            toml::from_str(text).map_err(|error| Error::Limits { file, error: Box::new(error) })?;
        Ok(Self { file, limits })
    }

    fn of(&self, result: &Measurement) -> Option<&Limit> {
        self.limits.iter().find(|limit| {
            (&limit.case, limit.cpus) == (&result.case, result.cpus)
                && limit.unit.as_ref().is_none_or(|unit| *unit == result.unit)
        })
    }

    /// What topomem's figure is to come to.
    pub(super) fn target(&self, result: &Measurement) -> Option<Target<'_>> {
        let limit = self.of(result)?;
        Some(Target { at_most: limit.target?, of: limit.of.as_ref() })
    }

    /// What topomem's figure is to come to, if it shall be large.
    pub(super) fn at_least(&self, result: &Measurement) -> Option<f64> {
        self.of(result)?.target_at_least
    }

    /// Why a figure is refused, if it is: on the wrong side of its bound, or without one.
    pub(super) fn objection(&self, result: &Measurement) -> Option<String> {
        let Measurement { case, subject, cpus, unit, median, .. } = result;
        let what = format!("{case} of {subject} on {cpus} CPUs: {median:.2} {unit}");
        match self.of(result).map(|limit| (limit.bound, limit.bound_at_least)) {
            Some((Some(most), _)) if *median <= most => None,
            Some((_, Some(least))) if *median >= least => None,
            Some((Some(bound), _) | (None, Some(bound))) => Some(format!("{what}, bound {bound:.2}")),
            Some((None, None)) | None => Some(format!("{what}, no bound in {}", self.file)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A result whose tenths are half and twice its median.
    pub(in super::super) fn result(
        case: &str,
        subject: &str,
        cpus: u32,
        (median, unit): (f64, &str),
    ) -> Measurement {
        Measurement {
            suite: "shootdown".to_owned(),
            case: case.to_owned(),
            subject: subject.to_owned(),
            cpus,
            unit: unit.to_owned(),
            median,
            low: median / 2.0,
            high: median * 2.0,
            n: 10,
        }
    }

    /// The limits that `text` says.
    pub(in super::super) fn limits(text: &str) -> Limits {
        Limits::parse("test.toml", text).unwrap()
    }

    const TEXT: &str = "[[limit]]\ncase = \"a\"\ncpus = 1\nunit = \"instructions\"\ntarget = 1.0\nbound = 2.0\n\
                        [[limit]]\ncase = \"a\"\ncpus = 2\nunit = \"us\"\ntarget = 0.5\n\
                        of = { subject = \"linux\", case = \"b\" }\n\
                        [[limit]]\ncase = \"b\"\ncpus = 1\ntarget = 7\n";

    #[test]
    fn a_count_over_its_bound_or_without_one_is_refused() {
        let limits = limits(TEXT);
        let objection = |case, cpus, figure| limits.objection(&result(case, "topomem", cpus, figure));
        assert_eq!(objection("a", 1, (2.0, "instructions")), None);
        let over = objection("a", 1, (2.01, "instructions")).unwrap();
        assert!(over.contains("2.01 instructions, bound 2.00"), "{over}");
        for without in
            [objection("a", 1, (1.0, "us")), objection("b", 1, (0.0, "%")), objection("c", 1, (0.0, "%"))]
        {
            assert!(without.unwrap().contains("no bound in test.toml"));
        }
    }

    #[test]
    fn a_target_is_a_number_or_a_multiple_of_anothers_figure() {
        let limits = limits(TEXT);
        let target = |case, cpus, unit| {
            let result = result(case, "topomem", cpus, (1.0, unit));
            limits.target(&result).map(|target| (target.at_most, target.of.cloned()))
        };
        let linux = Yardstick { subject: "linux".to_owned(), case: "b".to_owned() };
        assert_eq!(target("a", 1, "instructions"), Some((1.0, None)));
        assert_eq!(target("a", 2, "us"), Some((0.5, Some(linux))));
        assert_eq!(target("a", 2, "IPIs"), None);
        assert_eq!(target("b", 1, "whatever its unit"), Some((7.0, None)));
        assert_eq!(target("b", 2, "us"), None);
    }

    #[test]
    fn a_target_may_be_a_floor() {
        let limits = limits("[[limit]]\ncase = \"a\"\ncpus = 1\ntarget_at_least = 90\n");
        let result = result("a", "topomem", 1, (1.0, "%"));
        assert_eq!((limits.at_least(&result), limits.target(&result)), (Some(90.0), None));
    }

    #[test]
    fn a_bound_may_be_a_floor() {
        let limits = limits("[[limit]]\ncase = \"a\"\ncpus = 1\nbound_at_least = 90\n");
        let objection = |figure| limits.objection(&result("a", "topomem", 1, (figure, "%")));
        assert_eq!(objection(90.0), None);
        assert!(objection(89.9).unwrap().contains("89.90 %, bound 90.00"));
    }

    #[test]
    fn the_files_own_limits_can_be_read() {
        let is_bounded = |suite, case| {
            let limits = Limits::load(suite).unwrap();
            limits.of(&result(case, "topomem", 1, (1.0, "instructions"))).unwrap().bound.is_some()
        };
        assert!(is_bounded(Suite::Frames, "instructions_pair"));
        assert!(is_bounded(Suite::Frames, "instructions_hot"));
        assert!(is_bounded(Suite::Frames, "instructions_churn"));
        assert!(is_bounded(Suite::Shootdown, "protect_1"));
        assert!(is_bounded(Suite::Vm, "munmap_1"));
        assert!(Limits::parse("test.toml", "[[limit]]\ncase = \"a\"\ncpus = 1\nbond = 1\n").is_err());
    }
}
