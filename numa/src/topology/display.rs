//! A topology as a table for the kernel's log.

use core::fmt;

use super::{MemoryKind, Topology};

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemoryKind::Conventional => "conventional",
            MemoryKind::HotPluggable => "hot-pluggable",
            MemoryKind::NonVolatile => "non-volatile",
            MemoryKind::CxlWindow => "CXL window",
        })
    }
}

/// One block of lines per node (its CPUs as ranges of numbers, its memory), then the distances.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in self.nodes() {
            write!(f, "{node} (domain {}): CPUs ", self.proximity(node))?;
            write_runs(f, self.cpus_of(node).iter().map(|cpu| cpu.index()))?;
            writeln!(f)?;
            for range in self.memory_ranges().iter().filter(|range| range.node == node) {
                let (start, end) = (range.range.start.as_u64(), range.range.end.as_u64());
                writeln!(f, "  {start:#014x}..{end:#014x} {:>9} {}", Size(end - start), range.kind)?;
            }
            if let Some(cache) = self.memory_side_cache(node) {
                writeln!(f, "  memory-side cache {}, {} byte lines", Size(cache.bytes), cache.line_bytes)?;
            }
            for target in self.nodes() {
                let (latency, bandwidth) = (self.latency(node, target), self.bandwidth(node, target));
                if latency.is_some() || bandwidth.is_some() {
                    write!(f, "  to {target}:")?;
                    latency.iter().try_for_each(|latency| write!(f, " {latency}"))?;
                    bandwidth.iter().try_for_each(|bandwidth| write!(f, " {bandwidth}"))?;
                    writeln!(f)?;
                }
            }
        }
        write!(f, "distance")?;
        self.nodes().try_for_each(|to| write!(f, " {:>4}", to.index()))?;
        for from in self.nodes() {
            write!(f, "\n{:>8}", from.index())?;
            self.nodes().try_for_each(|to| write!(f, " {:>4}", self.distance(from, to)))?;
        }
        Ok(())
    }
}

/// Writes ascending numbers as `0-3,8`, or `none` if there are none.
fn write_runs(f: &mut fmt::Formatter<'_>, numbers: impl Iterator<Item = usize>) -> fmt::Result {
    let mut numbers = numbers.peekable();
    if numbers.peek().is_none() {
        return f.write_str("none");
    }
    let mut separator = "";
    while let Some(first) = numbers.next() {
        let mut last = first;
        while numbers.next_if_eq(&(last + 1)).is_some() {
            last += 1;
        }
        match last - first {
            0 => write!(f, "{separator}{first}")?,
            _ => write!(f, "{separator}{first}-{last}")?,
        }
        separator = ",";
    }
    Ok(())
}

/// Bytes, in the largest unit that divides them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = match self.0.trailing_zeros() {
            30.. => (self.0 >> 30, "GiB"),
            20.. => (self.0 >> 20, "MiB"),
            10.. => (self.0 >> 10, "KiB"),
            _ => (self.0, "B"),
        };
        match f.width() {
            Some(width) => {
                write!(f, "{count:>digits$} {unit}", digits = width.saturating_sub(unit.len() + 1))
            }
            None => write!(f, "{count} {unit}"),
        }
    }
}
