//! One run of QEMU or of the simulation: its output line by line, and a watchdog.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::error::Error;

/// When to give up waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// No output for this long.
    pub(crate) silence: Duration,
    /// No end after this long.
    pub(crate) total: Duration,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It ended by itself.
    Exited(ExitStatus),
    /// Killed, as it said nothing for so long.
    Silent(Duration),
    /// Killed, as the run took too long.
    Overran(Duration),
}

/// What is left after a session.
#[derive(Clone, Debug)]
pub(crate) struct SessionEnd {
    pub(crate) ended: Ended,
    /// The last line of output.
    pub(crate) last_line: Option<String>,
    /// What it wrote to its standard error: of QEMU, what is not the kernel's.
    pub(crate) complaints: Vec<String>,
    pub(crate) duration: Duration,
}

enum Event {
    Output(String),
    Complaint(String),
}

/// Killed when dropped before its end.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail only when it has ended and has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `command`, handing each line of its output to `on_line` as it comes. `on_stall` is called before
/// it is killed.
pub(crate) fn run(
    mut command: Command,
    limits: Option<Limits>,
    on_line: &mut dyn FnMut(&str),
    on_stall: &mut dyn FnMut(),
) -> Result<SessionEnd, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    die_with_parent(&mut command);
    let start = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let mut guest = Guest(command.spawn().map_err(|error| Error::Start { program: program.clone(), error })?);
    let (sender, events) = mpsc::channel();
    forward(guest.0.stdout.take(), sender.clone(), Event::Output);
    forward(guest.0.stderr.take(), sender, Event::Complaint);

    let (mut last_line, mut complaints) = (None, Vec::new());
    let mut killed = None;
    let mut last_output = start;
    loop {
        let event = match limits.filter(|_| killed.is_none()) {
            None => events.recv().map_err(RecvTimeoutError::from),
            Some(limits) => events.recv_timeout(remaining(limits, start, last_output)),
        };
        match event {
            Ok(Event::Output(line)) => {
                last_output = Instant::now();
                on_line(&line);
                last_line = Some(line);
            }
            Ok(Event::Complaint(line)) => complaints.push(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(limits) = limits.filter(|limits| remaining(*limits, start, last_output).is_zero())
            && killed.is_none()
        {
            killed = Some(if start.elapsed() >= limits.total {
                Ended::Overran(limits.total)
            } else {
                Ended::Silent(limits.silence)
            });
            on_stall();
            // Fails only when it has just ended by itself. The pipes close, and the loop with them.
            let _ = guest.0.kill();
        }
    }
    let status = guest.0.wait().map_err(|error| Error::Pipe { program, error })?;
    let ended = killed.unwrap_or(Ended::Exited(status));
    Ok(SessionEnd { ended, last_line, complaints, duration: start.elapsed() })
}

fn remaining(limits: Limits, start: Instant, last_output: Instant) -> Duration {
    let total = limits.total.saturating_sub(start.elapsed());
    total.min(limits.silence.saturating_sub(last_output.elapsed()))
}

/// Sends each line that `pipe` yields; ends with the pipe. What comes after the last newline counts as a line.
fn forward(pipe: Option<impl Read + Send + 'static>, sender: Sender<Event>, event: fn(String) -> Event) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            bytes.clear();
            if sender.send(event(line)).is_err() {
                return;
            }
        }
    });
}

/// Has the system kill the program when this process ends, however it ends.
fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    // SAFETY: the closure runs between fork and exec and makes one async-signal-safe system call, without
    // touching memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn limits(silence: u64, total: u64) -> Option<Limits> {
        Some(Limits { silence: Duration::from_millis(silence), total: Duration::from_millis(total) })
    }

    #[test]
    fn yields_lines_and_the_status() {
        let mut lines = Vec::new();
        let script = "printf 'one\\r\\ntwo\\nrest'; echo complaint >&2; exit 33";
        let end =
            run(shell(script), limits(60_000, 60_000), &mut |line| lines.push(line.to_owned()), &mut || {})
                .unwrap();
        assert_eq!(lines, ["one", "two", "rest"]);
        assert_eq!(end.last_line.as_deref(), Some("rest"));
        assert_eq!(end.complaints, ["complaint"]);
        assert!(matches!(end.ended, Ended::Exited(status) if status.code() == Some(33)));
    }

    #[test]
    fn kills_what_is_silent() {
        let end =
            run(shell("echo last; exec sleep 60"), limits(300, 60_000), &mut |_| {}, &mut || {}).unwrap();
        assert_eq!(end.ended, Ended::Silent(Duration::from_millis(300)));
        assert_eq!(end.last_line.as_deref(), Some("last"));
        assert!(end.duration < Duration::from_secs(30));
    }

    #[test]
    fn kills_what_does_not_end() {
        let script = "while true; do echo on; read -t 0.05 x < /dev/zero; done; exec sleep 60";
        let endless = shell(&format!("{script} || exec yes"));
        let end = run(endless, limits(30_000, 400), &mut |_| {}, &mut || {}).unwrap();
        assert_eq!(end.ended, Ended::Overran(Duration::from_millis(400)));
    }
}
