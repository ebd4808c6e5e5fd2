//! What is to be measured: `key=value` words, as they stand behind `--` on the kernel's command line.
//!
//! Linux passes on its own words too, such as `nokaslr`, where only its loader knows them: so words without a value
//! mean nothing here.

use std::collections::BTreeMap;
use std::fmt;

/// What the program was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) subject: Subject,
    pub(crate) metric: Metric,
    pub(crate) suite: Suite,
}

/// The kernel that runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Linux,
    /// topomem's reference kernel. It has no files to settle, and turns the machine off by itself.
    Topomem,
}

impl Subject {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Topomem => "topomem",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// The time-stamp counter counts instructions: the emulator was told so.
    Instructions,
    /// It counts time; what a change costs the machine is counted beside.
    Time,
}

/// Which cases are measured, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// What Linux pays for changing mappings.
    Shootdown(Samples),
    /// What memory costs a program: so many samples of each case.
    Vm { samples: u64 },
}

/// Samples of each kind of case; none where it is not to be measured. topomem's kernel is asked for as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Samples {
    /// Single changes.
    pub(crate) changes: u64,
    /// Bursts that topomem waits for once.
    pub(crate) bursts: u64,
    /// Rounds of changes that topomem has in flight at once.
    pub(crate) in_flight: u64,
    /// Rounds beside idle CPUs.
    pub(crate) idle: u64,
}

/// Why a request can't be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// The request has no such key.
    Unknown(String),
    /// A value that its key doesn't take.
    Value { key: &'static str, value: String },
    /// A key without which nothing can be measured.
    Missing(&'static str),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "the argument {word:?} is unknown"),
            Self::Value { key, value } => write!(f, "{key} can't be {value:?}"),
            Self::Missing(key) => write!(f, "the argument {key}= is missing"),
        }
    }
}

impl Request {
    /// Understands the arguments.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, RequestError> {
        let mut words = Words(
            words
                .into_iter()
                .filter_map(|word| {
                    word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
                })
                .collect(),
        );
        let subject = words.choice("subject", [("linux", Subject::Linux), ("topomem", Subject::Topomem)])?;
        let metric =
            words.choice("metric", [("instructions", Metric::Instructions), ("time", Metric::Time)])?;
        let suite = match words.choice("suite", [("shootdown", false), ("vm", true)])? {
            true => Suite::Vm { samples: words.number("samples")? },
            false => Suite::Shootdown(Samples {
                changes: words.number("changes")?,
                bursts: words.number("bursts")?,
                in_flight: words.number("in_flight")?,
                idle: words.number("idle")?,
            }),
        };
        match words.0.pop_first() {
            Some((key, value)) => Err(RequestError::Unknown(format!("{key}={value}"))),
            None => Ok(Self { subject, metric, suite }),
        }
    }
}

/// The words that were not asked for yet.
struct Words(BTreeMap<String, String>);

impl Words {
    /// Takes the value of `key`, if `understand` makes something of it.
    fn take<T>(
        &mut self,
        key: &'static str,
        understand: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, RequestError> {
        let value = self.0.remove(key).ok_or(RequestError::Missing(key))?;
        understand(&value).ok_or(RequestError::Value { key, value })
    }

    fn number(&mut self, key: &'static str) -> Result<u64, RequestError> {
        self.take(key, |value| value.parse().ok())
    }

    fn choice<T: Copy>(&mut self, key: &'static str, choices: [(&str, T); 2]) -> Result<T, RequestError> {
        self.take(key, |value| choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, RequestError> {
        Request::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn understands_both_suites() {
        let samples = Samples { changes: 2000, bursts: 500, in_flight: 90, idle: 0 };
        assert_eq!(
            parse(
                "nokaslr suite=shootdown subject=linux metric=time changes=2000 bursts=500 in_flight=90 idle=0"
            ),
            Ok(Request { subject: Subject::Linux, metric: Metric::Time, suite: Suite::Shootdown(samples) })
        );
        assert_eq!(
            parse("samples=60 metric=instructions suite=vm subject=topomem"),
            Ok(Request {
                subject: Subject::Topomem,
                metric: Metric::Instructions,
                suite: Suite::Vm { samples: 60 }
            })
        );
    }

    #[test]
    fn names_what_it_does_not_understand() {
        let line = "subject=linux metric=time suite=vm";
        assert_eq!(parse("suite=vm metric=time"), Err(RequestError::Missing("subject")));
        assert_eq!(parse(line), Err(RequestError::Missing("samples")));
        let quiet = parse(&format!("{line} samples=1 quiet=1"));
        assert_eq!(quiet, Err(RequestError::Unknown("quiet=1".to_owned())));
        for value in ["", "-1", "many"] {
            assert_eq!(
                parse(&format!("{line} samples={value}")),
                Err(RequestError::Value { key: "samples", value: value.to_owned() })
            );
        }
        assert!(matches!(
            parse("subject=linux metric=miles"),
            Err(RequestError::Value { key: "metric", .. })
        ));
    }
}
