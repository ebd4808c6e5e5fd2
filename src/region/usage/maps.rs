//! Lists of regions in the form of `/proc/self/maps`, `smaps` and `numa_maps` of Linux.

use core::fmt;

use topomem_numa::frames::Policy;
use topomem_percpu::{CpuPin, NodeId};

use super::super::attributes::{Kind, Sharing};
use super::super::list::RegionRange;
use super::Usage;
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::Pages;
use crate::region::calls::mmap::address;

/// The column of a region's name in its line.
const NAME_AT: usize = 73;

/// A space's regions, a line for each, as in `/proc/self/maps`.
pub struct Maps<'a, P: Machine> {
    space: &'a AddressSpace<P>,
    pin: &'a CpuPin,
}

/// A space's regions with their memory use, as in `/proc/self/smaps`.
pub struct Smaps<'a, P: Machine>(Maps<'a, P>);

/// A space's regions with their policies and the nodes of their frames, as in `/proc/self/numa_maps`.
pub struct NumaMaps<'a, P: Machine>(Maps<'a, P>);

impl<P: Machine> AddressSpace<P> {
    /// Returns the list of regions for people, in the form of `/proc/self/maps`. The list is made
    /// when written, with a look at each entry of the page tables.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// assert!(space.maps(pin).to_string().contains("rw-p"));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn maps<'a>(&'a self, pin: &'a CpuPin) -> Maps<'a, P> {
        Maps { space: self, pin }
    }

    /// Returns a list like [`AddressSpace::maps`] with the use of each region, in the form of
    /// `/proc/self/smaps`.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// let text = space.smaps(pin).to_string();
    /// assert!(text.contains(&format!("{:x}-", start.as_u64())));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn smaps<'a>(&'a self, pin: &'a CpuPin) -> Smaps<'a, P> {
        Smaps(self.maps(pin))
    }

    /// Returns a list like [`AddressSpace::maps`] with the policies and the nodes of the frames, in
    /// the form of `/proc/self/numa_maps`.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// assert!(!space.numa_maps(pin).to_string().is_empty());
    /// # let _ = start;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn numa_maps<'a>(&'a self, pin: &'a CpuPin) -> NumaMaps<'a, P> {
        NumaMaps(self.maps(pin))
    }
}

impl<P: Machine> Maps<'_, P> {
    /// Calls `write` with each region, until it fails.
    fn each(&self, mut write: impl FnMut(&RegionRange) -> fmt::Result) -> fmt::Result {
        let mut from = address(0);
        while let Some(range) = self.space.next_region(self.pin, from) {
            write(&range)?;
            from = range.end();
        }
        Ok(())
    }

    fn usage(&self, range: &RegionRange) -> Usage {
        self.space.usage_of(self.pin, pages(range))
    }
}

/// Returns the pages of a region.
fn pages(range: &RegionRange) -> Pages {
    let [first, end] = [range.start(), range.end()].map(|address| address.as_u64() >> 12);
    Pages { first, last: end - 1 }
}

/// Counts the bytes passed on.
struct Counted<'a, 'f> {
    to: &'a mut fmt::Formatter<'f>,
    bytes: usize,
}

impl fmt::Write for Counted<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes += text.len();
        self.to.write_str(text)
    }
}

/// Writes the line of a region.
fn write_line(f: &mut fmt::Formatter<'_>, range: &RegionRange) -> fmt::Result {
    let region = range.region();
    let access = region.access();
    let flag = |set: bool, name: char| if set { name } else { '-' };
    // An object appears in place of a file's number, with the device 00:01.
    let (offset, device, number) =
        range.object().map_or((0, 0, 0), |shown| (shown.offset, 1, shown.id.get()));
    let mut line = Counted { to: f, bytes: 0 };
    fmt::write(
        &mut line,
        format_args!(
            "{:08x}-{:08x} {}{}{}{} {offset:08x} 00:{device:02} {number} ",
            range.start().as_u64(),
            range.end().as_u64(),
            flag(access.reads(), 'r'),
            flag(access.writes(), 'w'),
            flag(access.executes(), 'x'),
            if region.sharing() == Sharing::Shared { 's' } else { 'p' },
        ),
    )?;
    let padding = NAME_AT.saturating_sub(line.bytes);
    match (range.name(), region.kind()) {
        (Some(name), _) => writeln!(f, "{:padding$}[anon:{}]", "", name.as_str()),
        (None, Kind::Heap) => writeln!(f, "{:padding$}[heap]", ""),
        (None, Kind::Stack) => writeln!(f, "{:padding$}[stack]", ""),
        (None, _) => writeln!(f),
    }
}

impl<P: Machine> fmt::Display for Maps<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.each(|range| write_line(f, range))
    }
}

impl<P: Machine> fmt::Display for Smaps<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.each(|range| {
            write_line(f, range)?;
            let usage = self.0.usage(range);
            let page = match range.region().kind() {
                Kind::Huge => 2048,
                Kind::Giant => 1 << 20,
                _ => 4,
            };
            for (name, kilobytes) in [
                ("Size:", usage.total * 4),
                ("KernelPageSize:", page),
                ("MMUPageSize:", page),
                ("Rss:", (usage.private + usage.shared) * 4),
                ("Pss:", usage.proportional_bytes >> 10),
                ("Shared_Dirty:", usage.shared * 4),
                ("Private_Dirty:", usage.private * 4),
                ("Anonymous:", (usage.private + usage.shared) * 4),
                ("AnonHugePages:", usage.large * 4),
            ] {
                writeln!(f, "{name:16}{kilobytes:8} kB")?;
            }
            if let Some(faults) = range.faults() {
                writeln!(f, "{:16}{:8}", "Minor_Faults:", faults.minor)?;
                writeln!(f, "{:16}{:8}", "Major_Faults:", faults.major)?;
            }
            Ok(())
        })
    }
}

impl<P: Machine> fmt::Display for NumaMaps<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.each(|range| {
            let policy = self.0.space.region_policy(self.0.pin, range.start()).ok().flatten();
            write!(f, "{:08x} ", range.start().as_u64())?;
            match policy {
                None => write!(f, "default")?,
                Some(Policy::Local) => write!(f, "local")?,
                Some(Policy::Preferred(node)) => write!(f, "prefer:{}", node.index())?,
                Some(Policy::Bind(nodes)) => write_nodes(f, "bind", nodes.iter())?,
                Some(Policy::Interleave(nodes)) => write_nodes(f, "interleave", nodes.iter())?,
                Some(Policy::WeightedInterleave(nodes)) => {
                    write_nodes(f, "weighted interleave", nodes.iter())?;
                }
            }
            let usage = self.0.usage(range);
            for (name, pages) in
                [("anon", usage.private + usage.shared), ("dirty", usage.private + usage.shared)]
            {
                if pages > 0 {
                    write!(f, " {name}={pages}")?;
                }
            }
            let write = |node: NodeId, pages| write!(f, " N{}={pages}", node.index());
            self.0.space.for_each_node(self.0.pin, pages(range), write)?;
            writeln!(f, " kernelpagesize_kB=4")
        })
    }
}

fn write_nodes(f: &mut fmt::Formatter<'_>, name: &str, nodes: impl Iterator<Item = NodeId>) -> fmt::Result {
    f.write_str(name)?;
    for (at, node) in nodes.enumerate() {
        write!(f, "{}{}", if at == 0 { ':' } else { ',' }, node.index())?;
    }
    Ok(())
}

impl<P: Machine> fmt::Debug for Maps<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Maps").field(self.space).finish()
    }
}

impl<P: Machine> fmt::Debug for Smaps<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Smaps").field(&self.0).finish()
    }
}

impl<P: Machine> fmt::Debug for NumaMaps<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NumaMaps").field(&self.0).finish()
    }
}
