//! Does KVM answer here? A device file alone says nothing: a machine is made.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::emulator::PROGRAM;

/// The device file.
const DEVICE: &str = "/dev/kvm";
/// The CPU model that the kernel runs on. A KVM without hardware refuses the register that tells what attacks the
/// host withstands.
pub(super) const CPU: &str = "host,arch-capabilities=off";
/// How long a machine that does nothing may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Returns what keeps machines from running under KVM, if something does.
pub(crate) fn obstacle() -> Option<String> {
    if !Path::new(DEVICE).exists() {
        return Some(format!("there is no {DEVICE}"));
    }
    let mut command = Command::new(PROGRAM);
    command.args(["-nodefaults", "-display", "none", "-M", "pc", "-m", "8M", "-S"]);
    command.args(["-accel", "kvm", "-cpu", CPU, "-monitor", "stdio"]);
    answer(command, TIMEOUT).err().map(|said| format!("{DEVICE} gives no machine: {said}"))
}

/// Starts a machine whose monitor reads from its standard input, and tells it to quit. If it doesn't end well within
/// `timeout`, the error is what QEMU said last.
fn answer(mut command: Command, timeout: Duration) -> Result<(), String> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut machine = command.spawn().map_err(|error| error.to_string())?;
    if let Some(mut monitor) = machine.stdin.take() {
        // A machine that has ended reads nothing; its status tells.
        let _ = monitor.write_all(b"quit\n");
    }
    let start = Instant::now();
    let status = loop {
        match machine.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if start.elapsed() < timeout => std::thread::sleep(POLL),
            None => {
                // Fails only when it has just ended by itself.
                let _ = machine.kill();
                let _ = machine.wait();
                return Err(format!("no end after {} s", timeout.as_secs()));
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(mut pipe) = machine.stderr.take() {
        pipe.read_to_string(&mut said).map_err(|error| error.to_string())?;
    }
    Err(said.lines().last().map_or_else(|| status.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn only_a_machine_that_quits_answers() {
        assert_eq!(answer(shell("read word; test \"$word\" = quit"), TIMEOUT), Ok(()));
        assert_eq!(answer(shell("echo first >&2; echo last >&2; exit 1"), TIMEOUT), Err("last".to_owned()));
        assert!(answer(Command::new("/nonexistent/qemu"), TIMEOUT).is_err());
    }

    #[test]
    fn a_machine_that_hangs_is_ended() {
        let start = Instant::now();
        assert!(answer(shell("exec sleep 60"), Duration::from_millis(100)).is_err());
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
