//! What is to be measured: `key=value` words, as they stand behind `--` on the kernel's command line.
//!
//! Linux passes on its own words too, such as `nokaslr`, where only its loader knows them: so words without a value
//! mean nothing here.

use std::fmt;

/// What the guest's program was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) metric: Metric,
    pub(crate) samples: Samples,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// The time-stamp counter counts instructions: the emulator was told so.
    Instructions,
    /// It counts time; what a change costs the machine is counted beside.
    Time,
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
    /// No request has such a key.
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

/// The keys of [`Samples`], in the order of its fields.
const SAMPLES: [&str; 4] = ["changes", "bursts", "in_flight", "idle"];

impl Request {
    /// Understands the arguments.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, RequestError> {
        let mut metric = None;
        let mut samples = [None; SAMPLES.len()];
        for word in words {
            let Some((key, value)) = word.split_once('=') else { continue };
            let refused = |key| RequestError::Value { key, value: value.to_owned() };
            let mut places = SAMPLES.into_iter().zip(&mut samples);
            match (key, value) {
                ("metric", "instructions") => metric = Some(Metric::Instructions),
                ("metric", "time") => metric = Some(Metric::Time),
                ("metric", _) => return Err(refused("metric")),
                _ => match places.find(|(name, _)| *name == key) {
                    Some((name, place)) => *place = Some(value.parse().map_err(|_| refused(name))?),
                    None => return Err(RequestError::Unknown(word)),
                },
            }
        }
        let [changes, bursts, in_flight, idle] = samples;
        let given = |key, samples: Option<u64>| samples.ok_or(RequestError::Missing(key));
        Ok(Self {
            metric: metric.ok_or(RequestError::Missing("metric"))?,
            samples: Samples {
                changes: given(SAMPLES[0], changes)?,
                bursts: given(SAMPLES[1], bursts)?,
                in_flight: given(SAMPLES[2], in_flight)?,
                idle: given(SAMPLES[3], idle)?,
            },
        })
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
        let samples = "changes=2000 bursts=500 in_flight=90 idle=0";
        let request = parse(&format!("nokaslr metric=time {samples}")).unwrap();
        assert_eq!(request.metric, Metric::Time);
        assert_eq!(request.samples, Samples { changes: 2000, bursts: 500, in_flight: 90, idle: 0 });
        assert_eq!(parse(&format!("{samples} metric=instructions")).unwrap().metric, Metric::Instructions);
    }

    #[test]
    fn names_what_it_does_not_understand() {
        let samples = "changes=1 bursts=1 in_flight=1 idle=1";
        assert_eq!(parse(samples), Err(RequestError::Missing("metric")));
        assert_eq!(parse("metric=time changes=1 bursts=1 idle=1"), Err(RequestError::Missing("in_flight")));
        let quiet = parse(&format!("metric=time {samples} quiet=1"));
        assert_eq!(quiet, Err(RequestError::Unknown("quiet=1".to_owned())));
        for value in ["", "-1", "many"] {
            assert_eq!(
                parse(&format!("metric=time bursts={value}")),
                Err(RequestError::Value { key: "bursts", value: value.to_owned() })
            );
        }
        assert!(matches!(parse("metric=miles"), Err(RequestError::Value { key: "metric", .. })));
    }
}
