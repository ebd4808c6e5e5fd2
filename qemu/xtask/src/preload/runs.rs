//! The runs that tests make: of other people's programs with and without the library, whose outputs must be the
//! same, and of the project's own programs, which check what they get.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{REPORT, build, folder, on_heap, program, sources};
use crate::error::Error;

/// A run that takes longer hangs.
const LIMIT: &str = "300";

/// A run of a test.
struct Run {
    what: What,
    /// Programs that must have used the heap, and how often at least.
    uses: &'static [(&'static str, u64)],
}

enum What {
    /// A script of `tests/preload/runs`, run with the library and without.
    Script(&'static str),
    /// A program of `tests/preload/programs`, and what it writes.
    Program(&'static str, &'static str),
}

const RUNS: [Run; 12] = [
    Run {
        what: What::Program("entry_points", "every entry point is as it should be\n"),
        uses: &[("entry_points", 1000)],
    },
    Run { what: What::Program("larson", "1600000 blocks replaced\n"), uses: &[("larson", 3_000_000)] },
    Run {
        what: What::Program("xmalloc", "400000 blocks freed by other threads\n"),
        uses: &[("xmalloc", 700_000)],
    },
    Run {
        what: What::Program("threads", "600 threads, twice\nan allocation at the program's end\n"),
        uses: &[("threads", 100_000)],
    },
    Run {
        what: What::Program("ended_threads", "2000 threads, one after another\n"),
        // Of 511 threads there are at most 1 022 000.
        uses: &[("ended_threads", 3_900_000)],
    },
    Run { what: What::Program("forks", "60 forks\n"), uses: &[("forks", 100_000)] },
    Run { what: What::Program("signals", "signal handlers allocated\n"), uses: &[("signals", 1_000_000)] },
    Run { what: What::Script("list"), uses: &[("ls", 10_000)] },
    Run { what: What::Script("python"), uses: &[("python3", 1_000_000)] },
    Run { what: What::Script("compile"), uses: &[("cc1", 1_000_000), ("as", 10_000)] },
    Run { what: What::Script("sqlite"), uses: &[("sqlite3", 100_000)] },
    Run {
        what: What::Script("redis"),
        uses: &[("redis-server", 100_000), ("redis-benchmark", 10_000), ("redis-cli", 10_000)],
    },
];

/// Makes all runs. A line for each, and how many failed.
pub(crate) fn failures() -> Result<(Vec<String>, u64), Error> {
    let library = build()?;
    let (mut lines, mut failed) = (Vec::new(), 0);
    for run in &RUNS {
        let start = Instant::now();
        let outcome = run.make(&library);
        let seconds = start.elapsed().as_secs_f64();
        let name = run.name();
        lines.push(match outcome {
            Ok(()) => format!("{name} on the heap: ok, {seconds:.1} s"),
            Err(objection) => {
                failed += 1;
                format!("{name} on the heap: FAILED, {seconds:.1} s: {objection}")
            }
        });
    }
    Ok((lines, failed))
}

impl Run {
    fn name(&self) -> &'static str {
        match self.what {
            What::Script(name) | What::Program(name, _) => name,
        }
    }

    /// Makes the run; what is wrong with it is an error's text.
    fn make(&self, library: &Path) -> Result<(), String> {
        let folder = folder().join(self.name());
        let report = folder.join("report");
        let text = |error: Error| error.to_string();
        let (program, expected) = match self.what {
            What::Script(name) => {
                let script = sources().join("runs").join(name).with_extension("sh");
                let command = vec!["sh".into(), "-eu".into(), script.into_os_string()];
                let expected = output(plain(&command), &folder.join("without"))?;
                (command, expected)
            }
            What::Program(name, expected) => {
                let source = sources().join("programs").join(name).with_extension("c");
                let program = program::build(&source, &folder).map_err(text)?;
                (vec![program.into_os_string()], expected.to_owned())
            }
        };
        // Of an earlier run.
        if let Err(error) = fs::remove_file(&report)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(text(Error::file(&report)(error)));
        }
        let command = limited(on_heap(&program[0], library), &program[1..], &report);
        let written = output(command, &folder.join("with"))?;
        if written != expected {
            return Err(difference(&expected, &written));
        }
        let report = fs::read_to_string(&report).map_err(|error| text(Error::file(report)(error)))?;
        self.uses.iter().try_for_each(|&(program, least)| proven(&report, program, least))
    }
}

/// The command without the library.
fn plain(words: &[OsString]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LIMIT]).args(words);
    command
}

/// The command with a limit of time, and a file for counts.
fn limited(command: Command, arguments: &[OsString], report: &Path) -> Command {
    let mut outer = Command::new("timeout");
    outer.args(["--kill-after=5", LIMIT]).arg(command.get_program()).args(command.get_args()).args(arguments);
    outer.env(REPORT, report);
    outer
}

/// What the command writes in an empty folder. What it writes to the standard error stays in a file there.
fn output(mut command: Command, folder: &Path) -> Result<String, String> {
    let log: PathBuf = folder.join("stderr");
    let _ = fs::remove_dir_all(folder);
    let file = fs::create_dir_all(folder).and_then(|()| fs::File::create(&log));
    let file = file.map_err(|error| Error::file(folder)(error).to_string())?;
    let output = command.current_dir(folder).stdin(Stdio::null()).stderr(file).output();
    let output = output.map_err(|error| format!("can't be started: {error}"))?;
    if !output.status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        return Err(format!("{}: {}", output.status, said.trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first line that differs.
fn difference(expected: &str, written: &str) -> String {
    let (mut left, mut right) = (expected.lines(), written.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (left.next(), right.next()) {
            (None, None) => return "the outputs differ in their ends of lines".to_owned(),
            (expected, written) if expected != written => {
                return format!("line {number} is {written:?}, not {expected:?}");
            }
            _ => {}
        }
    }
}

/// Does the report say that `program` used the heap at least so often?
fn proven(report: &str, program: &str, least: u64) -> Result<(), String> {
    let most = report.lines().filter_map(|line| uses(line, program)).max();
    match most {
        None => Err(format!("{program} did not say that it was on the heap")),
        Some(most) if most < least => Err(format!("{program} used the heap only {most} times")),
        Some(_) => Ok(()),
    }
}

/// How often the heap was used, if `line` is a line of this program's.
fn uses(line: &str, program: &str) -> Option<u64> {
    let counts = line.strip_prefix("topomem-preload: ")?.strip_prefix(program)?.strip_prefix(": ")?;
    counts.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "topomem-preload: ls: 120 uses of 1 CPUs' magazines, 0 nested; 1 small and 0 large objects left\n\
         topomem-preload: as: 7 uses of 1 CPUs' magazines, 0 nested; 1 small and 0 large objects left\n";

    #[test]
    fn a_program_must_have_used_the_heap() {
        assert_eq!(proven(REPORT, "ls", 120), Ok(()));
        assert!(proven(REPORT, "ls", 121).is_err());
        assert!(proven(REPORT, "l", 1).is_err());
        assert!(proven("", "ls", 0).is_err());
    }

    #[test]
    fn the_first_difference_is_told() {
        assert_eq!(difference("a\nb\n", "a\nc\n"), "line 2 is Some(\"c\"), not Some(\"b\")");
        assert_eq!(difference("a\n", "a\nc\n"), "line 2 is Some(\"c\"), not None");
    }

    #[test]
    fn what_fails_tells_its_error() {
        let folder = std::env::temp_dir().join(format!("topomem-preload-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck >&2; exit 3"]);
        let outcome = output(command, &folder);
        let _ = fs::remove_dir_all(&folder);
        assert!(outcome.is_err_and(|objection| objection.ends_with("no such luck")));
    }
}
