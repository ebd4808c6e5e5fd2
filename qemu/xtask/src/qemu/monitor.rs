//! Where the CPUs of a kernel that says nothing are: asked of QEMU's monitor before it is ended.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::run::symbolize::Symbols;
use crate::workspace;

const PROMPT: &str = "(qemu) ";
/// Of a monitor that doesn't answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// CPUs and calls shown.
const MOST_CPUS: usize = 16;
const MOST_CALLS: usize = 12;

/// Where this process's QEMU has its monitor.
pub(super) fn socket() -> PathBuf {
    workspace::target_folder().join(format!("monitor-{}", std::process::id()))
}

/// A backtrace of each CPU, as lines; none when the monitor can't be reached.
pub(super) fn backtraces(socket: &Path, symbols: &Symbols) -> Option<Vec<String>> {
    let mut monitor = Monitor::connect(socket)?;
    let registers = monitor.ask("info registers -a")?;
    let cpus = registers.split("CPU#").skip(1).take(MOST_CPUS);
    let mut lines = Vec::new();
    for cpu in cpus {
        let (Some(number), Some(rip)) = (cpu.split_whitespace().next(), register(cpu, "RIP=")) else {
            continue;
        };
        monitor.ask(&format!("cpu {number}"))?;
        let calls = monitor.calls(rip, register(cpu, "RBP=").unwrap_or(0))?;
        let halted = if cpu.contains("HLT=1") { ", halted" } else { "" };
        lines.push(format!("CPU {number}{halted}:"));
        lines.extend(symbols.backtrace(&calls.iter().map(|call| format!("{call:#x}")).collect::<Vec<_>>()));
    }
    Some(lines)
}

struct Monitor {
    stream: UnixStream,
}

impl Monitor {
    fn connect(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        let mut monitor = Self { stream };
        monitor.answer()?;
        Some(monitor)
    }

    fn ask(&mut self, question: &str) -> Option<String> {
        self.stream.write_all(format!("{question}\n").as_bytes()).ok()?;
        self.answer()
    }

    /// Everything up to the next prompt.
    fn answer(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        while !bytes.ends_with(PROMPT.as_bytes()) {
            let count = self.stream.read(&mut piece).ok().filter(|&count| count > 0)?;
            bytes.extend(piece.get(..count)?);
        }
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Follows the frame pointers of the CPU that was chosen: each points to the caller's, and the return address
    /// is above it.
    fn calls(&mut self, rip: u64, mut frame: u64) -> Option<Vec<u64>> {
        let mut calls = vec![rip];
        // Frames of the kernel are in the upper half, and callers' are above those that they call.
        while frame >> 63 == 1 && frame.is_multiple_of(8) && calls.len() < MOST_CALLS {
            let answer = self.ask(&format!("x /2gx {frame:#x}"))?;
            let Some((next, address)) = frame_words(&answer).filter(|&(_, address)| address != 0) else {
                break;
            };
            calls.push(address);
            if next <= frame {
                break;
            }
            frame = next;
        }
        Some(calls)
    }
}

/// The value of a register in what `info registers` says.
fn register(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(name)?;
    let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

/// The two words in what `x /2gx` says: `address: 0x… 0x…`.
fn frame_words(answer: &str) -> Option<(u64, u64)> {
    let line = answer.lines().find(|line| line.contains(": 0x"))?;
    let (_, words) = line.split_once(": ")?;
    let mut words =
        words.split_whitespace().map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    Some((words.next()??, words.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_registers() {
        let text = "0\nRAX=0000000000000001 RBX=00000000000000ff\nRIP=ffffffff80205f94 RFL=00000246 HLT=1\n";
        assert_eq!(register(text, "RIP="), Some(0xffff_ffff_8020_5f94));
        assert_eq!(register(text, "RBX="), Some(255));
        assert_eq!(register(text, "R99="), None);
    }

    #[test]
    fn reads_frames() {
        let answer =
            "x /2gx 0xffff800000001000\r\nffff800000001000: 0xffff800000001040 0xffffffff80205f94\r\n(qemu) ";
        assert_eq!(frame_words(answer), Some((0xffff_8000_0000_1040, 0xffff_ffff_8020_5f94)));
        assert_eq!(frame_words("Cannot access memory\r\n(qemu) "), None);
    }
}
