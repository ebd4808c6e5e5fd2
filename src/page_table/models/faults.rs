//! Accesses that are answered while another CPU unmaps the page, answers the same access, or copies the space.

use core::convert::Infallible;
use core::ops::RangeInclusive;

use super::*;

pub(super) const READ_ONLY: Protection = Protection::USER_READ_ONLY;
pub(super) const WRITABLE: Protection = Protection::USER_DATA;

/// The frame that page 0 of a space has for itself, or shares, at first; CPU `n` has frame `BASE + 1 + n` for it.
const OLD: u64 = BASE;

pub(super) fn region() -> RegionId {
    RegionId::new(1).unwrap()
}

/// Gives pages to a region, mapped or not.
struct Take;

impl Rewrite for Take {
    type Stop = Infallible;
    const CHECKS: bool = false;
    const UNMAPS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        false
    }

    fn check(&self, _: Found, _: Pages) -> Result<bool, Infallible> {
        Ok(true)
    }

    fn rewrite(&mut self, _: Found, _: Pages) -> Result<Becomes, Infallible> {
        Ok(Becomes::Reserved(region()))
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// The page was mapped to the CPU's frame, for the first time or in the place of one that is shared.
    Mapped,
    /// The page's frame has become the space's own.
    Reused,
    /// It was permitted.
    Spurious,
    /// The page belongs to no region.
    Refused,
}

impl Space {
    /// Marks page 0 as of a region, in a table that is there.
    pub(super) fn marked() -> Arc<Space> {
        Space::marked_at(0..=0)
    }

    fn marked_at(pages: RangeInclusive<u64>) -> Arc<Space> {
        let space = Space::new();
        assert!(space.map(0, 1, 1, Level::PAGE));
        let pin = pin(0);
        let (mut reserve, mut changed) = (Reserve::new(&space.memory, &pin), Changed::NOTHING);
        let pages = Pages { first: *pages.start(), last: *pages.end() };
        let access = space.memory.by(&pin);
        let taken = space.table.rewrite(access, &mut reserve, pages, &mut Take, &mut changed, |_| ());
        assert!(taken.is_ok());
        drop(reserve);
        space
    }

    /// Maps pages of a region to frames of their own, from `BASE` on, which may be written.
    pub(super) fn mapped(pages: RangeInclusive<u64>) -> Arc<Space> {
        let space = Space::marked_at(pages.clone());
        pages.for_each(|page| space.map_first(page, frame(BASE + page), WRITABLE, Ownership::Owned));
        space
    }

    /// Maps the page `page` to its first frame.
    pub(super) fn map_first(
        &self,
        page: u64,
        frame: PhysFrame,
        protection: Protection,
        ownership: Ownership,
    ) {
        let pin = pin(0);
        let (mut reserve, mut changed) = (Reserve::new(&self.memory, &pin), Changed::NOTHING);
        let leaf = Leaf { frame, protection, reach: Reach::Space, ownership };
        let mut neighbours = Neighbours { page, pages: Pages { first: page, last: page }, next: || None };
        let decide = |_, _| Ok::<_, ()>(Answer::Map(leaf, Level::PAGE));
        let access = self.memory.by(&pin);
        let mapped = self.table.resolve(access, &mut reserve, &mut neighbours, decide, &mut changed, |_| ());
        assert!(mapped.is_ok());
    }

    /// Answers a write to page 0 by `cpu`, as the faults of programs do.
    fn write(&self, cpu: usize) -> Written {
        let pin = pin(cpu);
        let (mut reserve, mut changed) = (Reserve::new(&self.memory, &pin), Changed::NOTHING);
        let mut written = Written::Spurious;
        let own = Leaf {
            frame: frame(BASE + 1 + cpu as u64),
            protection: WRITABLE,
            reach: Reach::Space,
            ownership: Ownership::Owned,
        };
        let decide = |found, _| {
            let (answer, how) = match found {
                Found::Vacant => return Err(()),
                Found::Mapped(leaf, _) if leaf.protection == WRITABLE => (Answer::Keep, Written::Spurious),
                Found::Mapped(leaf, _) if self.memory.is_sole_holder(leaf.frame, Level::PAGE) => {
                    (Answer::Own(WRITABLE), Written::Reused)
                }
                Found::Reserved(_) | Found::Mapped(..) => (Answer::Map(own, Level::PAGE), Written::Mapped),
            };
            written = how;
            Ok(answer)
        };
        let mut neighbours = Neighbours { page: 0, pages: Pages { first: 0, last: 0 }, next: || None };
        let access = self.memory.by(&pin);
        let answered =
            self.table.resolve(access, &mut reserve, &mut neighbours, decide, &mut changed, |_| ());
        match answered {
            Ok(_) => written,
            Err(RewriteError::Refused(())) => Written::Refused,
            Err(RewriteError::Tables(Empty)) => panic!("too few frames for the model"),
        }
    }

    /// The leaf of page 0.
    pub(super) fn leaf(&self) -> Option<Leaf> {
        let walks = Walks::new();
        let pin = pin(0);
        self.table.walk(&self.memory, &walks.enter(&pin), 0).map(|(leaf, _)| leaf)
    }
}

/// A page that is unmapped is not mapped afterwards, whether the fault came before or after.
#[test]
fn no_fault_maps_a_page_that_is_unmapped() {
    explore(|| {
        let space = Space::marked();
        let (written, cleared) = race(&space, |space| space.write(1), |space| space.clear(0, 0, 0));
        match written {
            Written::Mapped => assert_eq!(cleared, 1),
            Written::Refused => assert_eq!(cleared, 0),
            other => panic!("{other:?}"),
        }
        assert_eq!(space.leaf(), None);
        space.finish();
    });
}

/// Of two faults at one page, one maps it, and the other finds it mapped.
#[test]
fn two_faults_at_one_page_do_the_work_once() {
    explore(|| {
        let space = Space::marked();
        let (one, two) = race(&space, |space| space.write(1), |space| space.write(0));
        let mapped = match (one, two) {
            (Written::Mapped, Written::Spurious) => BASE + 2,
            (Written::Spurious, Written::Mapped) => BASE + 1,
            both => panic!("{both:?}"),
        };
        assert_eq!(space.leaf().map(|leaf| number(leaf.frame)), Some(mapped));
        space.finish();
    });
}

/// CPU 1 writes to page 0 while CPU 0 copies the space: the copy never shows a frame that the space may write
/// to. `holders`: how many others share the frame at first.
fn write_meets_copy(holders: u32, ownership: Ownership, protection: Protection) {
    explore(move || {
        let space = Space::marked();
        space.map_first(0, frame(OLD), protection, ownership);
        space.memory.share_with(OLD - BASE, holders);
        let (written, child) = race(
            &space,
            |space| space.write(1),
            |space| {
                let pin = pin(0);
                let (mut reserve, mut changed) = (Reserve::new(&space.memory, &pin), Changed::NOTHING);
                let child = PageTable::<X64<4>>::new(&space.memory, &pin, RootEntries::Own).unwrap();
                let copy = Copied {
                    pages: Pages { first: 0, last: 3 },
                    to: &child,
                    inherited: |_| Inherited::Contents,
                };
                let access = space.memory.by(&pin);
                assert!(space.table.copy_to(access, &mut reserve, copy, &mut changed, |_| ()).is_ok());
                child
            },
        );
        let (walks, pin) = (Walks::new(), pin(0));
        let copied = child.walk(&space.memory, &walks.enter(&pin), 0).unwrap().0;
        let left = space.leaf().unwrap();
        assert!(copied.protection == READ_ONLY, "{copied:?}");
        let apart = left.frame != copied.frame || left.protection == READ_ONLY;
        assert!(apart, "{written:?}: the space writes to the copy's frame");
    });
}

#[test]
fn a_copy_on_write_beside_a_copy_of_the_space() {
    write_meets_copy(1, Ownership::Shared, READ_ONLY);
}

#[test]
fn a_reuse_beside_a_copy_of_the_space() {
    write_meets_copy(0, Ownership::Shared, READ_ONLY);
}

#[test]
fn a_write_to_an_own_page_beside_a_copy_of_the_space() {
    write_meets_copy(0, Ownership::Owned, WRITABLE);
}
