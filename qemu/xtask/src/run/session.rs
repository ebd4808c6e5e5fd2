//! One run of QEMU or of the simulation: its output line by line, and a watchdog.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::error::Error;

/// When to give up waiting, on a host that has nothing else to do: a busy host is given more time.
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
            killed = Some(if last_output.elapsed() >= limits.silence {
                Ended::Silent(limits.silence)
            } else {
                Ended::Overran(limits.total)
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

/// How long to wait for more output. What is over its limit has as many times the limit as programs want to run on
/// each of the host's CPUs: it is not at fault if others run.
fn remaining(limits: Limits, start: Instant, last_output: Instant) -> Duration {
    let left = |times: u32| {
        let total = limits.total.saturating_mul(times).saturating_sub(start.elapsed());
        total.min(limits.silence.saturating_mul(times).saturating_sub(last_output.elapsed()))
    };
    let left_alone = left(1);
    if left_alone.is_zero() { left(load()) } else { left_alone }
}

/// How many programs want to run on each of the host's CPUs, by Linux's average of the last minute: 1 at least.
fn load() -> u32 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
    programs_per_cpu(&text, cpus)
}

/// What `/proc/loadavg` says, for each of `cpus` CPUs, rounded up.
fn programs_per_cpu(loadavg: &str, cpus: usize) -> u32 {
    let average = loadavg.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    ((average / cpus as f64).ceil() as u32).max(1)
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
        let end = run(shell(script), None, &mut |line| lines.push(line.to_owned()), &mut || {}).unwrap();
        assert_eq!(lines, ["one", "two", "rest"]);
        assert_eq!(end.last_line.as_deref(), Some("rest"));
        assert_eq!(end.complaints, ["complaint"]);
        assert!(matches!(end.ended, Ended::Exited(status) if status.code() == Some(33)));
    }

    #[test]
    fn a_busy_host_is_given_more_time() {
        assert_eq!(programs_per_cpu("0.20 0.38 0.19 1/180 2304\n", 2), 1);
        assert_eq!(programs_per_cpu("2.00 0.38 0.19 1/180 2304\n", 2), 1);
        assert_eq!(programs_per_cpu("15.03 17.04 19.83 9/180 2304\n", 2), 8);
        assert_eq!(programs_per_cpu("", 2), 1);
        let now = Instant::now();
        let alone = Limits { silence: Duration::from_secs(60), total: Duration::from_secs(100) };
        assert!(remaining(alone, now, now) > Duration::from_secs(50), "within its limit");
    }

    #[test]
    fn kills_what_is_silent() {
        // A busy host may take longer than the limit to begin: then once more, with a higher one.
        let said_at_last = (0..).map(|round| 300 << round).find_map(|silence| {
            let silent = shell("echo last; exec sleep 100000");
            let end = run(silent, limits(silence, 100_000_000), &mut |_| {}, &mut || {}).unwrap();
            assert_eq!(end.ended, Ended::Silent(Duration::from_millis(silence)));
            end.last_line
        });
        assert_eq!(said_at_last.as_deref(), Some("last"));
    }

    #[test]
    fn kills_what_does_not_end() {
        let script = "while true; do echo on; read -t 0.05 x < /dev/zero; done; exec sleep 60";
        let endless = shell(&format!("{script} || exec yes"));
        let end = run(endless, limits(100_000_000, 400), &mut |_| {}, &mut || {}).unwrap();
        assert_eq!(end.ended, Ended::Overran(Duration::from_millis(400)));
    }
}
