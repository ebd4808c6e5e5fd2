//! A step that is a cargo command: what it writes is shown in brief as it comes, and kept in full.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::memory;
use super::stepped::Stepped;
use crate::error::Error;
use crate::report::Screen;
use crate::shell;
use crate::test::Outcome;
use crate::test::commands::{CargoCommand, Load};
use crate::test::tally::Tally;

/// A step that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// The same of steps that run beside each other, and share the host's processors.
const LIMIT_BESIDE: Duration = Duration::from_secs(30 * 60);

/// Runs the command and adds up the results of the test programs that it runs.
pub(in crate::test) fn run(step: &CargoCommand, screen: &mut Screen) -> Result<Outcome, Error> {
    let mut command = step.command();
    let typed = shell::typed(&command);
    screen.line(&format!("    {typed}"));
    let limit = match step.load {
        Load::Host => LIMIT,
        Load::Cpu => LIMIT_BESIDE,
    };
    follow(&mut command, limit, screen).map(|(tally, output)| Outcome { tally, output })
}

fn follow(
    command: &mut Command,
    limit: Duration,
    screen: &mut Screen,
) -> Result<(Tally, Vec<String>), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let typed = shell::typed(command);
    let start = Instant::now();
    let memory = memory::Before::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Error::Start { program: program.clone(), error })?;
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);

    let mut tally = Tally::default();
    let mut stepped = Stepped::default();
    let mut output = vec![typed];
    loop {
        match lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(line) => {
                tally += Tally::parse(&line).unwrap_or_default();
                stepped += Stepped::parse(&line).unwrap_or_default();
                show(&line, screen);
                output.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                kill_with_descendants(&child);
                output.push(format!("killed: no end after {} s", limit.as_secs()));
                break;
            }
        }
    }
    let status = child.wait().map_err(|error| Error::Pipe { program, error })?;
    screen.erase();
    if stepped != Stepped::default() {
        screen.line(&format!("    {stepped}"));
    }
    if let Some(objection) = memory.objection() {
        output.push(format!("error: {objection}"));
        tally += Tally::FAILED;
    }
    if !status.success() {
        output.push(format!("ended with {status}"));
        // A build that fails has no test that could.
        if tally.failed == 0 {
            tally += Tally::FAILED;
        }
    }
    Ok((tally, output))
}

/// Test programs and their results stay on the screen; the rest passes by.
fn show(line: &str, screen: &mut Screen) {
    let trimmed = line.trim_start();
    let stays = ["Running ", "Doc-tests ", "test result: ", "error", "stepped "]
        .iter()
        .any(|start| trimmed.starts_with(start))
        || (trimmed.starts_with("test ") && trimmed.ends_with("FAILED"));
    if stays {
        screen.line(&format!("    {trimmed}"));
    } else if !trimmed.is_empty() {
        screen.passing(&format!("    {trimmed}"));
    }
}

fn forward(pipe: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}

/// Cargo's children outlive it, and a test that hangs would go on for ever.
fn kill_with_descendants(child: &Child) {
    let mut found = vec![child.id()];
    let mut next = 0;
    while let Some(&process) = found.get(next) {
        next += 1;
        let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        found.extend(children.unwrap_or_default().split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    let ids = found.iter().map(u32::to_string);
    // One that has just ended is no matter.
    let _ = Command::new("kill").arg("-KILL").args(ids).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn quiet() -> Screen {
        Screen::capturing("")
    }

    #[test]
    fn adds_up_all_results() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; \
                      echo 'test result: FAILED. 1 passed; 3 failed; 0 ignored'; exit 101";
        let (tally, output) = follow(&mut shell(script), LIMIT, &mut quiet()).unwrap();
        assert_eq!(tally, Tally { passed: 3, failed: 3, skipped: 0 });
        assert_eq!(output.len(), 4);
    }

    #[test]
    fn stop_points_are_added_up() {
        let line = "stepped frees: 2 operations, 3 contexts, 6 combinations (4 at every instruction), \
                    50 instructions, 40 stops, 1 missed";
        let mut screen = quiet();
        follow(&mut shell(&format!("echo '{line}'; echo '{line}'")), LIMIT, &mut screen).unwrap();
        let lines = screen.into_lines();
        let last = lines.last().unwrap();
        assert!(last.contains("in all: 4 operations, 12 combinations (8 at every instruction)"), "{lines:?}");
    }

    #[test]
    fn a_build_that_fails_counts_as_one_failure() {
        let (tally, output) = follow(&mut shell("echo 'error: no'; exit 101"), LIMIT, &mut quiet()).unwrap();
        assert_eq!(tally, Tally::FAILED);
        assert!(output.iter().any(|line| line == "error: no"));
    }

    #[test]
    fn what_hangs_is_killed_with_its_children() {
        // Were the sleep not killed, too, its output would not end, nor would the test.
        let (tally, output) =
            follow(&mut shell("sleep 100000; true"), Duration::from_millis(300), &mut quiet()).unwrap();
        assert_eq!(tally, Tally::FAILED);
        assert!(output.iter().any(|line| line.starts_with("killed")));
    }
}
