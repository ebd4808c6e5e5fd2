//! What comes over the guest's console: Linux's own messages, and records.

use std::collections::VecDeque;

use super::error::LinuxError;
use crate::bench::figures::Figures;
use crate::run::record::{Line, Record};
use crate::run::session::{Ended, SessionEnd};

/// Messages that are kept, to be shown when the guest fails: a panic with its backtrace.
const KEPT: usize = 30;

/// Gathers what a guest says.
#[derive(Debug, Default)]
pub(super) struct Console {
    messages: VecDeque<String>,
    figures: Figures,
    /// The first thing that was wrong.
    error: Option<LinuxError>,
    /// What the last record says.
    ended_ok: Option<bool>,
}

impl Console {
    /// Takes a line.
    pub(super) fn line(&mut self, line: &str) {
        let error = match Line::parse(line) {
            Line::Log(message) => return self.message(message),
            Line::Malformed { line, reason } => LinuxError::Malformed { line, reason },
            Line::Record(record) => match *record {
                Record::Result(result) => return self.figures.results.push(result),
                Record::Distribution(distribution) => return self.figures.distributions.push(distribution),
                Record::Absent(absent) => return self.figures.absent.push(absent),
                Record::End { ok } => {
                    self.ended_ok = Some(ok);
                    return;
                }
                Record::Failure(failure) => LinuxError::Program(failure),
                _ => LinuxError::Malformed {
                    line: line.to_owned(),
                    reason: "not a record that Linux's program sends".to_owned(),
                },
            },
        };
        self.error.get_or_insert(error);
    }

    fn message(&mut self, message: String) {
        // The firmware clears the screen before it says anything.
        let text = message.trim_matches(|c: char| c.is_whitespace() || c.is_control());
        if text.is_empty() {
            return;
        }
        if self.messages.len() == KEPT {
            self.messages.pop_front();
        }
        self.messages.push_back(text.to_owned());
    }

    /// The figures of a guest on a machine with `cpus` CPUs, once it has ended.
    pub(super) fn conclude(self, cpus: u32, end: SessionEnd) -> Result<Figures, LinuxError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let ended_well = matches!(end.ended, Ended::Exited(status) if status.success());
        if !ended_well || self.ended_ok != Some(true) {
            let console = self.messages.into_iter().chain(end.complaints).collect();
            return Err(LinuxError::Broken { ended: end.ended, console });
        }
        let results = &self.figures.results;
        match results.iter().find(|result| result.cpus != cpus) {
            Some(other) => Err(LinuxError::Cpus { there: cpus, online: other.cpus }),
            None if results.is_empty() => Err(LinuxError::Nothing),
            None => Ok(self.figures),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    use super::*;
    use crate::run::record::Failure;

    const RESULT: &str = r#"@@{"t":"result","suite":"shootdown","case":"unmap_1","subject":"linux","cpus":2,"unit":"us","median":2.5,"low":1.0,"high":4.0,"n":9}"#;
    const DISTRIBUTION: &str = r#"@@{"t":"distribution","case":"unmap_1","subject":"linux","cpus":2,"unit":"us","n":9,"percentiles":[1.0]}"#;
    const OK: &str = r#"@@{"t":"end","ok":true}"#;

    fn end(ended: Ended) -> SessionEnd {
        let complaints = vec!["qemu: no".to_owned()];
        SessionEnd { ended, last_line: None, complaints, duration: Duration::ZERO }
    }

    fn exited(code: i32) -> Ended {
        Ended::Exited(ExitStatus::from_raw(code << 8))
    }

    fn heard(lines: &[&str], ended: Ended) -> Result<Figures, LinuxError> {
        let mut console = Console::default();
        lines.iter().for_each(|line| console.line(line));
        console.conclude(2, end(ended))
    }

    #[test]
    fn results_need_a_good_end() {
        let figures = heard(&["[    0.0] Linux", RESULT, DISTRIBUTION, "", OK], exited(0)).unwrap();
        let results = figures.results;
        assert_eq!(figures.distributions[0].percentiles, [1.0]);
        assert_eq!((results.len(), results[0].case.as_str(), results[0].median), (1, "unmap_1", 2.5));
        for (lines, ended) in [
            (&[RESULT][..], exited(0)),
            (&[RESULT, OK], exited(1)),
            (&[RESULT, OK], Ended::Silent(Duration::from_secs(9))),
            (&[RESULT, r#"@@{"t":"end","ok":false}"#], exited(0)),
        ] {
            assert!(matches!(heard(lines, ended), Err(LinuxError::Broken { .. })), "{lines:?} {ended:?}");
        }
        assert_eq!(heard(&[OK], exited(0)), Err(LinuxError::Nothing));
    }

    #[test]
    fn a_failed_boot_shows_the_end_of_the_console() {
        let lines: Vec<String> = (0..40).map(|number| format!("[    0.{number}] line")).collect();
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.push("\u{1b}\r\n");
        let Err(LinuxError::Broken { console, .. }) = heard(&lines, Ended::Overran(Duration::ZERO)) else {
            panic!()
        };
        assert_eq!(console.len(), KEPT + 1);
        assert_eq!((console[0].as_str(), console[KEPT].as_str()), ("[    0.10] line", "qemu: no"));
    }

    #[test]
    fn the_first_thing_that_is_wrong_counts() {
        let failure = r#"@@{"t":"failure","what":"munmap failed","where":"guest"}"#;
        assert_eq!(
            heard(&[RESULT, failure, "@@{}", OK], exited(0)),
            Err(LinuxError::Program(Failure::new("munmap failed", "guest")))
        );
        for bad in [&RESULT[..40], "@@", r#"@@{"t":"frames","addresses":[]}"#] {
            let heard = heard(&[bad, failure, OK], exited(0));
            assert!(matches!(heard, Err(LinuxError::Malformed { line, .. }) if line == bad), "{bad}");
        }
    }

    #[test]
    fn a_missing_cpu_is_noticed() {
        let one = RESULT.replace(r#""cpus":2"#, r#""cpus":1"#);
        assert_eq!(heard(&[&one, OK], exited(0)), Err(LinuxError::Cpus { there: 2, online: 1 }));
    }
}
