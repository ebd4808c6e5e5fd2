//! Where a program's output goes: line by line to the log, or on as records, and kept to be compared.

extern crate alloc;

use alloc::vec::Vec;
use core::fmt;

use spin::mutex::SpinMutex;

use crate::per_cpu::Polling;
use crate::{log, record};

/// Bytes that are kept.
const MOST_KEPT: usize = 64 * 1024;

/// What a line of output that begins as a record does is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Records {
    /// A line like others.
    Logged,
    /// A record for the runner.
    Relayed,
}

/// One program's output.
pub(crate) struct Console {
    name: &'static str,
    records: Records,
    written: SpinMutex<Written, Polling>,
}

struct Written {
    bytes: Vec<u8>,
    /// Where the line begins that is not in the log yet.
    line_start: usize,
    /// More was written than is kept.
    is_cut: bool,
}

impl Console {
    /// An empty console of the program `name`.
    pub(crate) const fn new(name: &'static str, records: Records) -> Console {
        let written = Written { bytes: Vec::new(), line_start: 0, is_cut: false };
        Console { name, records, written: SpinMutex::new(written) }
    }

    /// Adds `bytes`, as many as fit; the rest is lost.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut written = self.written.lock();
        let fit = bytes.len().min(MOST_KEPT - written.bytes.len());
        if fit < bytes.len() || written.bytes.try_reserve(fit).is_err() {
            written.is_cut = true;
            return;
        }
        written.bytes.extend_from_slice(bytes);
        while let Some(length) = written.bytes[written.line_start..].iter().position(|&byte| byte == b'\n') {
            let start = written.line_start;
            let line = &written.bytes[start..start + length];
            match line.strip_prefix(b"@@") {
                Some(json) if self.records == Records::Relayed => record!("{}", Lossy(json)),
                _ if line.is_empty() => {}
                _ => log!("{}: {}", self.name, Lossy(line)),
            }
            written.line_start += length + 1;
        }
    }

    /// Tells whether exactly `bytes` were written.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        let written = self.written.lock();
        !written.is_cut && written.bytes == bytes
    }
}

/// Bytes as text, whatever they are.
struct Lossy<'a>(&'a [u8]);

impl fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("name", &self.name).finish_non_exhaustive()
    }
}
