//! CPU 1 writes to page 0, which shows a page of a memory object, while CPU 0 cuts the object or writes the page
//! back. The object's word, which both look at and change, is the production code's.

use core::cell::Cell;
use core::convert::Infallible;

use loom::sync::atomic::{AtomicU64, Ordering};

use super::faults::{READ_ONLY, WRITABLE};
use super::writes::{FREE, Flush, Shootdown, Writer};
use super::*;
use crate::object::{PageWord, State, Use, Word, WriteBack};

/// The frame of the object's page.
const OWN: u64 = BASE;

/// An object of at most one page.
struct Object {
    /// In pages.
    size: AtomicU64,
    word: PageWord,
}

impl Object {
    fn new(word: Word) -> Arc<Object> {
        Arc::new(Object { size: AtomicU64::new(1), word: PageWord::of(word) })
    }
}

/// When a fault looks at the object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Claimed,
    /// Before it has the claim of the entry.
    Before,
}

/// How a fault asks for a page that is to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    Dirty,
    Nothing,
}

/// Answers a write to page 0 as faults of shared mappings do. Says whether the access may be made again.
fn answer(space: &Space, object: &Object, look: Look, marks: Marks) -> bool {
    let pin = pin(1);
    let (mut reserve, mut changed) = (Reserve::new(&space.memory, &pin), Changed::NOTHING);
    let mut neighbours = Neighbours { page: 0, pages: Pages { first: 0, last: 0 }, next: || None };
    let wanted = if marks == Marks::Dirty { Use::Write } else { Use::Read };
    let find = || {
        // Acquire as in `ObjectCore::pages`.
        let ends = object.size.load(Ordering::Acquire) == 0;
        if ends { None } else { object.word.find(wanted) }
    };
    let seen = (look == Look::Before).then(find);
    let decide = |found, _| match found {
        Found::Mapped(leaf, _) if leaf.protection == WRITABLE => Ok::<_, ()>(Answer::Keep),
        found => {
            let page = seen.unwrap_or_else(find).ok_or(())?;
            match found {
                Found::Mapped(leaf, _) if leaf.frame == page.frame => Ok(Answer::Permit(WRITABLE)),
                _ => {
                    // Borrowed: the counts of shares have a model of their own.
                    let (reach, ownership) = (Reach::Space, Ownership::Borrowed);
                    Ok(Answer::Map(
                        Leaf { frame: page.frame, protection: WRITABLE, reach, ownership },
                        Level::PAGE,
                    ))
                }
            }
        }
    };
    let access = space.memory.by(&pin);
    space.table.resolve(access, &mut reserve, &mut neighbours, decide, &mut changed, |_| ()).is_ok()
}

/// What CPU 0 does to mappings of the object's page.
struct Upkeep<'a> {
    becomes: &'a dyn Fn(Leaf, RegionId) -> Becomes,
}

impl Rewrite for Upkeep<'_> {
    type Stop = Infallible;
    const CHECKS: bool = false;
    const UNMAPS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        false
    }

    fn check(&self, found: Found, _: Pages) -> Result<bool, Infallible> {
        Ok(matches!(found, Found::Mapped(_, Some(_))))
    }

    fn rewrite(&mut self, found: Found, _: Pages) -> Result<Becomes, Infallible> {
        Ok(match found {
            Found::Mapped(leaf, Some(region)) => (self.becomes)(leaf, region),
            _ => Becomes::Same,
        })
    }
}

/// Rewrites page 0, and waits until CPU 1 has flushed.
fn upkeep(space: &Space, shootdown: &Shootdown, flush: Flush, becomes: &dyn Fn(Leaf, RegionId) -> Becomes) {
    let pin = pin(0);
    let (mut reserve, mut changed) = (Reserve::new(&space.memory, &pin), Changed::NOTHING);
    let tell = |changed: &mut Changed| {
        if changed.stale.is_some() {
            shootdown.ask();
        }
    };
    let (access, page) = (space.memory.by(&pin), Pages { first: 0, last: 0 });
    let done = space.table.rewrite(access, &mut reserve, page, &mut Upkeep { becomes }, &mut changed, tell);
    assert!(done.is_ok());
    if flush == Flush::Awaited {
        shootdown.wait();
    }
}

/// Has the page been marked before its mappings are rewritten?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    First,
    Late,
}

/// How the page goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// The object ends before it.
    Cut,
    /// The object keeps its length.
    Hole,
}

/// CPU 0 takes the page out of the object, and frees the frame. CPU 1 writes until it is refused, twice at most.
fn removal_meets_writes(removal: Removal, mapped: bool, look: Look, mark: Mark, flush: Flush) {
    explore_up_to(3, move || {
        let space = Space::marked();
        let object = Object::new(Word::present(frame(OWN)).dirty());
        if mapped {
            space.map_first(0, frame(OWN), WRITABLE, Ownership::Borrowed);
        }
        let shootdown = Shootdown::new();
        let (answered, shown) = (Arc::clone(&shootdown), Arc::clone(&object));
        race(
            &space,
            move |space| {
                let mut writer = Writer::new(space, &answered);
                let refused = Cell::new(false);
                for value in 1..=2 {
                    if !refused.get() {
                        writer.write(value, |space, _| {
                            let again = answer(space, &shown, look, Marks::Dirty);
                            refused.set(!again);
                            again
                        });
                    }
                }
                writer.leave()
            },
            |space| {
                if removal == Removal::Cut {
                    // As in `MemoryObject::set_size`.
                    object.size.swap(0, Ordering::AcqRel);
                }
                if mark == Mark::First {
                    object.word.kill();
                }
                upkeep(space, &shootdown, flush, &|_, region| Becomes::Reserved(region));
                object.word.kill();
                let dead = object.word.load();
                assert_eq!(dead.state(), State::Dead);
                assert!(object.word.replace(dead, Word::ABSENT).is_ok());
                space.memory.word(dead.frame()).store(FREE, Ordering::Relaxed);
            },
        );
        assert_eq!(space.leaf(), None, "a page is mapped that was taken out");
        let freed = space.memory.word(frame(OWN)).load(Ordering::Relaxed);
        assert_eq!(freed, FREE, "a frame was written to that was free");
        space.finish();
    });
}

#[test]
fn no_fault_maps_a_page_that_is_cut_off() {
    removal_meets_writes(Removal::Cut, false, Look::Claimed, Mark::First, Flush::Awaited);
}

#[test]
fn no_write_reaches_a_page_that_was_cut_off() {
    removal_meets_writes(Removal::Cut, true, Look::Claimed, Mark::First, Flush::Awaited);
}

#[test]
fn no_write_reaches_a_page_where_a_hole_was_punched() {
    removal_meets_writes(Removal::Hole, true, Look::Claimed, Mark::First, Flush::Awaited);
}

#[test]
#[should_panic(expected = "a page is mapped that was taken out")]
fn a_fault_that_looks_at_the_object_without_a_claim_is_caught() {
    removal_meets_writes(Removal::Cut, false, Look::Before, Mark::First, Flush::Awaited);
}

#[test]
#[should_panic(expected = "a page is mapped that was taken out")]
fn a_hole_whose_mappings_go_before_it_is_marked_is_caught() {
    removal_meets_writes(Removal::Hole, true, Look::Claimed, Mark::Late, Flush::Awaited);
}

#[test]
#[should_panic(expected = "a frame was written to that was free")]
fn a_cut_that_does_not_wait_is_caught() {
    removal_meets_writes(Removal::Cut, true, Look::Claimed, Mark::First, Flush::Left);
}

/// CPU 0 writes the page back, CPU 1 writes to it twice: the file has the last write, or the page is dirty.
fn write_back_meets_writes(mark: Mark, marks: Marks, flush: Flush) {
    explore_up_to(3, move || {
        let space = Space::marked();
        let object = Object::new(Word::present(frame(OWN)).dirty());
        space.map_first(0, frame(OWN), WRITABLE, Ownership::Borrowed);
        let shootdown = Shootdown::new();
        let (answered, shown) = (Arc::clone(&shootdown), Arc::clone(&object));
        let (written, file) = race(
            &space,
            move |space| {
                let mut writer = Writer::new(space, &answered);
                let fault = |space: &Space, _: &Shootdown| answer(space, &shown, Look::Claimed, marks);
                (1..=2).for_each(|value| writer.write(value, fault));
                writer.leave()
            },
            |space| {
                let protect =
                    || upkeep(space, &shootdown, flush, &|_, region| Becomes::Mapped(READ_ONLY, region));
                if mark == Mark::Late {
                    protect();
                }
                assert_eq!(object.word.begin_writing(), WriteBack::Begun);
                if mark == Mark::First {
                    protect();
                }
                // What the pager gets.
                let file = space.memory.word(frame(OWN)).load(Ordering::Relaxed);
                object.word.end_writing(Ok(()));
                file
            },
        );
        let word = object.word.load();
        assert!(!word.is_writing());
        assert_eq!(space.memory.word(frame(OWN)).load(Ordering::Relaxed), written);
        assert!(file == written || word.is_dirty(), "a write is lost");
        space.finish();
    });
}

#[test]
fn no_write_is_lost_by_writing_back() {
    write_back_meets_writes(Mark::First, Marks::Dirty, Flush::Awaited);
}

#[test]
#[should_panic(expected = "a write is lost")]
fn writing_back_without_waiting_is_caught() {
    write_back_meets_writes(Mark::First, Marks::Dirty, Flush::Left);
}

#[test]
#[should_panic(expected = "a write is lost")]
fn marking_a_page_after_its_mappings_is_caught() {
    write_back_meets_writes(Mark::Late, Marks::Dirty, Flush::Awaited);
}

#[test]
#[should_panic(expected = "a write is lost")]
fn a_first_write_that_does_not_make_the_page_dirty_is_caught() {
    write_back_meets_writes(Mark::First, Marks::Nothing, Flush::Awaited);
}
