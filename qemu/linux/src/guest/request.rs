//! What is to be measured: `key=value` words, as they stand behind `--` on the kernel's command line.
//!
//! Linux passes on its own words too, such as `nokaslr`, where only its loader knows them: so words without a value
//! mean nothing here.

use std::fmt;
use std::time::Duration;

/// What the guest's program was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) metric: Metric,
    pub(crate) budget: Budget,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// The time-stamp counter counts instructions: the emulator was told so.
    Instructions,
    /// It counts time; interrupts are counted beside.
    Time,
}

/// When a case ends: at whichever limit comes first, but not without a few samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) samples: u64,
    pub(crate) time: Duration,
}

impl Budget {
    /// Samples that a case takes even if it overruns its time.
    pub(crate) const FEWEST: u64 = 3;
}

/// Why a request can't be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// Its key is none of `metric`, `samples`, `seconds`.
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
        let (mut metric, mut samples, mut seconds) = (None, None, None);
        for word in words {
            match word.split_once('=') {
                Some(("metric", "instructions")) => metric = Some(Metric::Instructions),
                Some(("metric", "time")) => metric = Some(Metric::Time),
                Some(("metric", value)) => {
                    return Err(RequestError::Value { key: "metric", value: value.to_owned() });
                }
                Some(("samples", value)) => samples = Some(number("samples", value)?),
                Some(("seconds", value)) => seconds = Some(number("seconds", value)?),
                Some(_) => return Err(RequestError::Unknown(word)),
                None => {}
            }
        }
        Ok(Self {
            metric: metric.ok_or(RequestError::Missing("metric"))?,
            budget: Budget {
                samples: samples.ok_or(RequestError::Missing("samples"))?,
                time: Duration::from_secs(seconds.ok_or(RequestError::Missing("seconds"))?),
            },
        })
    }
}

fn number(key: &'static str, value: &str) -> Result<u64, RequestError> {
    match value.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(RequestError::Value { key, value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, RequestError> {
        Request::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn understands_both_metrics() {
        let request = parse("nokaslr metric=time samples=200 seconds=5").unwrap();
        assert_eq!(request.metric, Metric::Time);
        assert_eq!(request.budget, Budget { samples: 200, time: Duration::from_secs(5) });
        assert_eq!(parse("seconds=1 samples=1 metric=instructions").unwrap().metric, Metric::Instructions);
    }

    #[test]
    fn names_what_it_does_not_understand() {
        assert_eq!(parse("samples=1 seconds=1"), Err(RequestError::Missing("metric")));
        assert_eq!(parse("metric=time seconds=1"), Err(RequestError::Missing("samples")));
        assert_eq!(parse("metric=time quiet=1"), Err(RequestError::Unknown("quiet=1".to_owned())));
        for value in ["0", "", "-1", "many"] {
            assert_eq!(
                parse(&format!("metric=time samples={value}")),
                Err(RequestError::Value { key: "samples", value: value.to_owned() })
            );
        }
        assert!(matches!(parse("metric=miles"), Err(RequestError::Value { key: "metric", .. })));
    }
}
