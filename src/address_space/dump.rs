//! Page tables in a form for people.

use core::fmt;
use core::ops::ControlFlow;

use topomem_percpu::CpuPin;

use super::AddressSpace;
use crate::Machine;
use crate::page_table::{Cache, Found, Leaf, Ownership, Pages, Privilege};

/// A space's page tables: a line for each range of pages with equal mappings, or with equal
/// reservations.
pub struct TableDump<'a, P: Machine> {
    space: &'a AddressSpace<P>,
    pin: &'a CpuPin,
}

impl<P: Machine> AddressSpace<P> {
    /// Returns the space's page tables in a form for people: ranges of pages, their permissions,
    /// the owners of their frames, and whether the frames are contiguous. The text is made when
    /// written, with a look at each entry.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// println!("{}", space.dump(pin));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn dump<'a>(&'a self, pin: &'a CpuPin) -> TableDump<'a, P> {
        TableDump { space: self, pin }
    }
}

/// Consecutive pages with equal states.
struct Run {
    pages: Pages,
    found: Found,
    /// Number of pages covered by the last entry.
    size: u64,
}

impl Run {
    /// Extends the run by `part` if `found` continues it.
    fn extend(&mut self, part: Pages, found: Found) -> bool {
        let alike = match (self.found, found) {
            (Found::Reserved(region), Found::Reserved(other)) => region == other,
            (Found::Mapped(leaf, region), Found::Mapped(other, of)) => {
                let follows = leaf.frame + self.pages.count() == other.frame;
                region == of
                    && follows
                    && Leaf { frame: leaf.frame, ..other } == leaf
                    && self.size == part.count()
            }
            _ => false,
        };
        if alike && self.pages.last + 1 == part.first {
            self.pages.last = part.last;
            return true;
        }
        false
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [start, end] = [self.pages.first, self.pages.last + 1].map(|page| page << 12);
        write!(f, "{start:#018x}-{end:#018x} {:>10} KiB ", self.pages.count() * 4)?;
        let leaf = match self.found {
            Found::Vacant => return writeln!(f, "vacant"),
            Found::Reserved(_) => return writeln!(f, "reserved"),
            Found::Mapped(leaf, _) => leaf,
        };
        let (access, flag) = (leaf.protection.access(), |set, name| if set { name } else { '-' });
        let page = match self.size {
            1 => "4K",
            512 => "2M",
            _ => "1G",
        };
        write!(
            f,
            "{}{}{}{} {page} -> {:#x}",
            flag(access.reads(), 'r'),
            flag(access.writes(), 'w'),
            flag(access.executes(), 'x'),
            flag(leaf.protection.privilege() == Privilege::User, 'u'),
            leaf.frame.start_address().as_u64(),
        )?;
        f.write_str(match leaf.ownership {
            Ownership::Owned => " owned",
            Ownership::Shared => " shared",
            Ownership::Borrowed => " borrowed",
        })?;
        match leaf.protection.cache() {
            Cache::WriteBack => writeln!(f),
            other => writeln!(f, " {other:?}"),
        }
    }
}

impl<P: Machine> fmt::Display for TableDump<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.space.core();
        let mut rest = Some(core.bounds);
        // Nothing is written with a claim held: the writer may use memory served by the claimed
        // tables.
        while let Some(pages) = rest.take() {
            let mut run: Option<Run> = None;
            core.table.visit(core.service.tables(self.pin), pages, |part, found| {
                let goes_on = run.as_mut().map(|run| run.extend(part, found));
                match goes_on {
                    None if found == Found::Vacant => {}
                    None => run = Some(Run { pages: part, found, size: part.count() }),
                    Some(true) => {}
                    Some(false) => {
                        rest = Some(Pages { first: part.first, ..pages });
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            });
            if let Some(run) = run {
                run.write(f)?;
            }
        }
        Ok(())
    }
}

impl<P: Machine> fmt::Debug for TableDump<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TableDump").field(self.space).finish()
    }
}
