//! Flushes and messages between CPUs, as the kernel's own tracing counts them in histograms.
//!
//! A tracepoint with a histogram costs the traced code some time, so [`Traces::start`] comes after all that is timed.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::pseudo_file::PseudoFile;

/// Where the tracing file system comes.
const FOLDER: &str = "/tracing";

/// Messages to CPUs to call a function, one target or several each. Rescheduling has no callback.
const MESSAGES: [(&str, &str); 2] = [
    ("ipi/ipi_send_cpu", "hist:keys=callsite if callback != 0"),
    ("ipi/ipi_send_cpumask", "hist:keys=callsite if callback != 0"),
];
/// Flushes, done or asked for.
const FLUSHES: (&str, &str) = ("tlb/tlb_flush", "hist:keys=reason,pages");

/// The kernel's numbers (`enum tlb_flush_reason`) of a flush that another CPU asked for, and of two that the CPU does
/// by itself. The others are switches of address spaces, and the asking.
const DONE: [u64; 3] = [1, 2, 3];
/// The number of pages that means all.
const ALL: u64 = u64::MAX;

/// Why tracing can't be used, though the kernel has it.
#[derive(Debug)]
pub(crate) struct TracesError {
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for TracesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't trace with {}: {}", self.path.display(), self.error)
    }
}

/// What was traced so far, on all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traced {
    /// Messages sent, whatever the number of their targets.
    pub(crate) messages: u64,
    /// Flushes of everything that isn't global.
    pub(crate) full: u64,
    /// Flushes of single pages.
    pub(crate) partial: u64,
}

impl Traced {
    /// What was traced after `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(before.messages),
            full: self.full.saturating_sub(before.full),
            partial: self.partial.saturating_sub(before.partial),
        }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            full: self.full + other.full,
            partial: self.partial + other.partial,
        }
    }
}

/// The histograms.
#[derive(Debug)]
pub(crate) struct Traces {
    messages: Vec<(PathBuf, PseudoFile)>,
    flushes: (PathBuf, PseudoFile),
}

impl Traces {
    /// Starts to count; `None` where the kernel has no such tracing.
    pub(crate) fn start() -> Result<Option<Self>, TracesError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| TracesError { path, error }
        };
        let folder = Path::new(FOLDER);
        fs::create_dir_all(folder).map_err(at(folder))?;
        match mount(c"tracefs", c"/tracing", c"tracefs", MountFlags::empty(), None) {
            Err(Errno::NODEV) => return Ok(None),
            result => result.map_err(io::Error::from).map_err(at(folder))?,
        }
        let event = |(name, histogram): (&str, &str)| {
            let event = folder.join("events").join(name);
            let path = event.join("trigger");
            if !path.exists() {
                return Ok(None);
            }
            fs::write(&path, histogram).map_err(at(&path))?;
            let path = event.join("hist");
            let file = PseudoFile::open(&path).map_err(at(&path))?;
            Ok(Some((path, file)))
        };
        let messages = MESSAGES.into_iter().map(event).collect::<Result<Option<Vec<_>>, _>>()?;
        let flushes = event(FLUSHES)?;
        Ok(messages.zip(flushes).map(|(messages, flushes)| Self { messages, flushes }))
    }

    /// The counts of this moment.
    pub(crate) fn counts(&mut self) -> Result<Traced, TracesError> {
        let mut traced = Traced::default();
        for (path, file) in &mut self.messages {
            traced.messages += hits(&read(path, file)?).map(|(_, count)| count).sum::<u64>();
        }
        let (path, file) = &mut self.flushes;
        let text = read(path, file)?;
        (traced.full, traced.partial) = flushes(&text);
        Ok(traced)
    }
}

fn read<'f>(path: &Path, file: &'f mut PseudoFile) -> Result<std::borrow::Cow<'f, str>, TracesError> {
    file.read().map_err(|error| TracesError { path: path.to_owned(), error })
}

/// Full and partial flushes. One that found nothing to do counts as none.
fn flushes(text: &str) -> (u64, u64) {
    let (mut full, mut partial) = (0, 0);
    for (keys, count) in hits(text) {
        let key = |name| value(keys, name);
        match (key("reason:"), key("pages:")) {
            (Some(reason), Some(ALL)) if DONE.contains(&reason) => full += count,
            (Some(reason), Some(1..)) if DONE.contains(&reason) => partial += count,
            _ => {}
        }
    }
    (full, partial)
}

/// Each of a histogram's entries: `{ reason: 3, pages: 1 } hitcount: 5`.
fn hits(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (keys, count) = line.trim().strip_prefix('{')?.split_once("} hitcount:")?;
        Some((keys, count.trim().parse().ok()?))
    })
}

/// The number behind `name` among an entry's keys.
fn value(keys: &str, name: &str) -> Option<u64> {
    keys.split(',').find_map(|key| key.trim().strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# event histogram
#
# trigger info: hist:keys=reason,pages:vals=hitcount:sort=hitcount:size=2048 [active]
#

{ reason:          1, pages:          0 } hitcount:          2
{ reason:          4, pages:          1 } hitcount:         64
{ reason:          0, pages: 18446744073709551615 } hitcount:  7
{ reason:          3, pages: 18446744073709551615 } hitcount:  3
{ reason:          1, pages:         33 } hitcount:        100
{ reason:          3, pages:          1 } hitcount:       1000

Totals:
    Hits: 1176
    Entries: 6
    Dropped: 0
";

    #[test]
    fn tells_flushes_by_reason_and_extent() {
        assert_eq!(flushes(TEXT), (3, 1100));
        assert_eq!(flushes("# event histogram\n\nTotals:\n    Hits: 0\n"), (0, 0));
    }

    #[test]
    fn differences_and_sums_go_by_field() {
        let (less, more) =
            (Traced { messages: 1, full: 2, partial: 3 }, Traced { messages: 5, full: 4, partial: 3 });
        let difference = Traced { messages: 4, full: 2, partial: 0 };
        assert_eq!((more.since(less), less.plus(difference)), (difference, more));
    }

    #[test]
    fn adds_up_messages() {
        let text = "{ callsite: 18446744071580123456 } hitcount:         12\n{ callsite: 3 } hitcount: 5\n";
        assert_eq!(hits(text).map(|(_, count)| count).sum::<u64>(), 17);
    }
}
