//! Records for the runner, in the form in which topomem's own kernel sends them: a line each, `@@` and JSON.

use std::io::Write;

use serde::Serialize;

use crate::guest::spread::Spread;

/// One record.
#[derive(Debug, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(crate) enum Record<'a> {
    Result(Measured<'a>),
    Distribution(Distributed<'a>),
    /// A case that this kernel has no system call for.
    Absent {
        case: &'a str,
        subject: &'a str,
        call: &'a str,
    },
    Failure {
        what: String,
        #[serde(rename = "where")]
        place: &'a str,
    },
    /// The last record.
    End {
        ok: bool,
    },
}

/// What all figures of a boot have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) suite: &'static str,
    pub(crate) subject: &'static str,
    /// CPUs of the machine.
    pub(crate) cpus: usize,
}

/// One result.
#[derive(Debug, Serialize)]
pub(crate) struct Measured<'a> {
    suite: &'a str,
    case: &'a str,
    subject: &'a str,
    cpus: usize,
    unit: &'a str,
    median: f64,
    low: f64,
    high: f64,
    n: u64,
}

impl<'a> Measured<'a> {
    pub(crate) fn new(origin: Origin, case: &'a str, unit: &'a str, spread: Spread) -> Self {
        let Spread { median, low, high, n } = spread;
        let Origin { suite, subject, cpus } = origin;
        Self { suite, case, subject, cpus, unit, median, low, high, n }
    }
}

/// How the samples of one case are spread.
#[derive(Debug, Serialize)]
pub(crate) struct Distributed<'a> {
    case: &'a str,
    subject: &'a str,
    cpus: usize,
    unit: &'a str,
    n: usize,
    /// From the first to the 99th.
    percentiles: Vec<f64>,
}

impl<'a> Distributed<'a> {
    pub(crate) fn new(origin: Origin, case: &'a str, unit: &'a str, n: usize, percentiles: Vec<f64>) -> Self {
        Self { case, subject: origin.subject, cpus: origin.cpus, unit, n, percentiles }
    }
}

impl Record<'_> {
    /// Writes the record to the console. Nobody is there to be told if that fails; the runner misses it.
    pub(crate) fn write(&self) {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(self.line().as_bytes()).and_then(|()| stdout.flush());
    }

    /// On a new line, for something else may have left the console in the middle of one.
    fn line(&self) -> String {
        serde_json::to_string(self)
            .map_or_else(|error| format!("\n{error}\n"), |json| format!("\n@@{json}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_form_that_the_runner_reads() {
        let spread = Spread { median: 2.5, low: 1.0, high: 4.0, n: 9 };
        let origin = Origin { suite: "shootdown", subject: "linux", cpus: 2 };
        assert_eq!(
            Record::Result(Measured::new(origin, "unmap_1", "us", spread)).line(),
            "\n@@{\"t\":\"result\",\"suite\":\"shootdown\",\"case\":\"unmap_1\",\"subject\":\"linux\",\"cpus\":2,\
             \"unit\":\"us\",\"median\":2.5,\"low\":1.0,\"high\":4.0,\"n\":9}\n"
        );
        assert_eq!(
            Record::Failure { what: "no".to_owned(), place: "here" }.line(),
            "\n@@{\"t\":\"failure\",\"what\":\"no\",\"where\":\"here\"}\n"
        );
        assert_eq!(
            Record::Absent { case: "fork_64m", subject: "linux", call: "fork" }.line(),
            "\n@@{\"t\":\"absent\",\"case\":\"fork_64m\",\"subject\":\"linux\",\"call\":\"fork\"}\n"
        );
        assert_eq!(Record::End { ok: true }.line(), "\n@@{\"t\":\"end\",\"ok\":true}\n");
    }
}
