//! What failed, in brief: the last lines of a long run are all that many a reader sees.

use std::fmt;

/// Lines that are shown of a step.
const LINES: usize = 12;

/// Lines that are shown if none is known to be a reason: a kernel's last words are its panic and the verdict.
const LAST_LINES: usize = 5;

/// A step that failed, and the lines of its output that say why.
pub(super) struct Failure {
    step: String,
    reasons: Vec<String>,
    /// Reasons that are not shown.
    left_out: usize,
}

impl Failure {
    /// Picks the reasons from all that the step wrote. If no line is known to be a reason, the last lines are.
    pub(super) fn of(step: &str, output: &[String]) -> Failure {
        let written = || output.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
        let mut lines: Vec<&str> = Vec::new();
        for line in written().filter(|line| says_why(line)) {
            // Test programs name their failed tests twice.
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        if lines.is_empty() {
            lines = written().collect();
            lines.drain(..lines.len().saturating_sub(LAST_LINES));
        }
        let left_out = lines.len().saturating_sub(LINES);
        let reasons = lines.into_iter().take(LINES).map(str::to_owned).collect();
        Failure { step: step.to_owned(), reasons, left_out }
    }
}

fn says_why(line: &str) -> bool {
    let test = line.starts_with("test ") && line.ends_with("FAILED");
    let killed = line.starts_with("killed: ") || line.contains("(signal: ");
    let error = line.starts_with("error")
        && !line.starts_with("error: test failed")
        && !line.contains("target failed");
    test || killed || error || line.contains(" MISSED") || line == "no test ran"
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    {}", self.step)?;
        self.reasons.iter().try_for_each(|reason| writeln!(f, "        {reason}"))?;
        match self.left_out {
            0 => Ok(()),
            more => writeln!(f, "        and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(output: &[&str]) -> String {
        let output: Vec<String> = output.iter().map(|&line| line.to_owned()).collect();
        Failure::of("steps", &output).to_string()
    }

    #[test]
    fn failed_tests_and_signals_are_named() {
        let output = [
            "running 2 tests",
            "test works ... ok",
            "test breaks ... FAILED",
            "  process didn't exit successfully: `step_frames --nocapture` (signal: 9, SIGKILL: kill)",
            "error: test failed, to rerun pass `-p topomem-numa --test step_frames`",
            "error: 1 target failed:",
        ];
        let text = failure(&output);
        assert!(text.contains("test breaks ... FAILED"), "{text}");
        assert!(text.find("breaks") < text.find("SIGKILL"), "in the order of the output: {text}");
        assert!(text.contains("SIGKILL"), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn without_a_known_reason_the_last_lines_are_shown() {
        let output = ["first", "CPU 0: panicked", "assertion failed", "", "left: 2", "right: 1", "it ended"];
        let text = failure(&output);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            ["steps", "CPU 0: panicked", "assertion failed", "left: 2", "right: 1", "it ended"]
        );
    }

    #[test]
    fn many_reasons_are_cut() {
        let output: Vec<String> = (10..40).map(|test| format!("test t{test} ... FAILED")).collect();
        let text = Failure::of("steps", &output).to_string();
        assert_eq!(text.lines().count(), LINES + 2);
        assert!(text.ends_with("and 18 more\n"));
    }
}
