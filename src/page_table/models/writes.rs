//! CPU 1 writes to page 0 by the translation in its TLB, while CPU 0 moves the page to another frame: what CPU 1
//! has written last is what it reads.

use loom::sync::atomic::{AtomicU32, Ordering};

use super::faults::{READ_ONLY, WRITABLE};
use super::*;

/// The frame that page 0 is mapped to at first; page 1, if it is mapped, to the next.
const OLD: u64 = BASE;
/// A run of two frames that the pages get.
const NEW: u64 = BASE + 2;
/// What a frame holds that is freed.
pub(super) const FREE: u64 = u64::MAX;

/// What CPU 1 is asked to flush, and has flushed.
pub(super) struct Shootdown {
    asked: AtomicU32,
    answered: AtomicU32,
}

impl Shootdown {
    pub(super) fn new() -> Arc<Shootdown> {
        Arc::new(Shootdown { asked: AtomicU32::new(0), answered: AtomicU32::new(0) })
    }

    /// Asks CPU 1 to flush. With the claims held of what was changed.
    pub(super) fn ask(&self) {
        // Release pairs with the Acquire in `serve`: what CPU 1 finds afterwards is what was changed.
        self.asked.fetch_add(1, Ordering::Release);
    }

    /// Has CPU 1 flushed for all that was asked before?
    fn is_quiet(&self) -> bool {
        // Acquire pairs with the Release in `serve`: what CPU 1 wrote before it flushed is seen.
        self.answered.load(Ordering::Acquire) >= self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn wait(&self) {
        while !self.is_quiet() {
            thread::yield_now();
        }
    }
}

/// CPU 1.
pub(super) struct Writer<'a> {
    space: &'a Space,
    shootdown: &'a Shootdown,
    cached: Option<Leaf>,
    /// What it has written last.
    written: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(space: &'a Space, shootdown: &'a Shootdown) -> Writer<'a> {
        Writer { space, shootdown, cached: space.leaf(), written: 0 }
    }

    /// Takes the interrupt, if there is one.
    fn serve(&mut self) {
        let asked = self.shootdown.asked.load(Ordering::Acquire);
        if self.shootdown.answered.load(Ordering::Relaxed) < asked {
            self.cached = None;
            self.shootdown.answered.store(asked, Ordering::Release);
        }
    }

    /// Writes as a program does. `fault` answers a fault, or refuses the access.
    pub(super) fn write(&mut self, value: u64, fault: impl Fn(&Space, &Shootdown) -> bool) {
        loop {
            self.serve();
            // The walk and the store are one instruction.
            self.cached = self.cached.or_else(|| self.space.leaf());
            if let Some(leaf) = self.cached.filter(|leaf| leaf.protection.access().writes()) {
                self.space.memory.word(leaf.frame).store(value, Ordering::Relaxed);
                self.written = value;
                return;
            }
            self.cached = None;
            if !fault(self.space, self.shootdown) {
                return;
            }
        }
    }

    /// Leaves the space, with all that it may have cached. Returns what it has written last.
    pub(super) fn leave(self) -> u64 {
        // Release as in `serve`.
        self.shootdown.answered.store(u32::MAX, Ordering::Release);
        self.written
    }
}

/// Answers a fault at a page that is hidden, or that has lost the permission to write.
fn answer(space: &Space, shootdown: &Shootdown) -> bool {
    let pin = pin(1);
    let (mut reserve, mut changed) = (Reserve::new(&space.memory, &pin), Changed::NOTHING);
    let mut neighbours = Neighbours { page: 0, pages: Pages { first: 0, last: 0 }, next: || None };
    let decide = |found, level: Level| match found {
        // As for large pages that were made of small ones.
        Found::Mapped(leaf, _) if leaf.ownership == Ownership::Shared && level > Level::PAGE => {
            if shootdown.is_quiet() { Ok(Answer::Own(WRITABLE)) } else { Err(()) }
        }
        Found::Mapped(leaf, _) if leaf.protection == WRITABLE => Ok(Answer::Keep),
        Found::Mapped(..) => Ok(Answer::Own(WRITABLE)),
        other => panic!("{other:?}"),
    };
    let access = space.memory.by(&pin);
    let answered = space.table.resolve(access, &mut reserve, &mut neighbours, decide, &mut changed, |_| ());
    if answered.is_err() {
        // CPU 1 itself is waited for.
        thread::yield_now();
    }
    true
}

/// Does CPU 0 wait until CPU 1 has flushed?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    Awaited,
    Left,
}

/// Hides page 0, copies its frame and maps the copy, as moves to other nodes do. Says whether the page has moved.
fn migrate(space: &Space, shootdown: &Shootdown, flush: Flush) -> bool {
    let pin = pin(0);
    let page = Pages { first: 0, last: 0 };
    let hide =
        |leaf: &Leaf, _| Ok::<_, ()>(Leaf { protection: leaf.protection.with_access(Access::NONE), ..*leaf });
    let tell = |changed: &Changed| {
        assert!(changed.stale.is_some());
        shootdown.ask();
    };
    let hidden = space.table.exchange(space.memory.by(&pin), page, Level::PAGE, hide, tell);
    assert!(hidden.is_ok());
    if flush == Flush::Awaited {
        shootdown.wait();
    }
    let put = |leaf: &Leaf, _| {
        if leaf.protection.access().reads() {
            return Err(());
        }
        space.memory.copy(leaf.frame, frame(NEW));
        Ok(Leaf { frame: frame(NEW), protection: WRITABLE, ..*leaf })
    };
    let moved = space.table.exchange(space.memory.by(&pin), page, Level::PAGE, put, |_| ());
    if let Ok((old, ())) = &moved {
        space.memory.word(old.frame).store(FREE, Ordering::Relaxed);
    }
    moved.is_ok()
}

fn migration_meets_writes(flush: Flush) {
    explore(move || {
        let space = Space::mapped(0..=0);
        let shootdown = Shootdown::new();
        let answered = Arc::clone(&shootdown);
        let (written, moved) = race(
            &space,
            move |space| {
                let mut writer = Writer::new(space, &answered);
                (1..=2).for_each(|value| writer.write(value, answer));
                writer.leave()
            },
            |space| migrate(space, &shootdown, flush),
        );
        let leaf = space.leaf().unwrap();
        assert_eq!(number(leaf.frame), if moved { NEW } else { OLD });
        assert_eq!(space.memory.word(leaf.frame).load(Ordering::Relaxed), written, "a write is lost");
        if moved {
            let freed = space.memory.word(frame(OLD)).load(Ordering::Relaxed);
            assert_eq!(freed, FREE, "a frame was written to that was free");
        }
        space.finish();
    });
}

#[test]
fn no_write_is_lost_by_a_migration() {
    migration_meets_writes(Flush::Awaited);
}

#[test]
#[should_panic(expected = "a write is lost")]
fn a_migration_that_does_not_wait_is_caught() {
    migration_meets_writes(Flush::Left);
}

/// What a collapse asks, of a region that may be written.
struct Ask<'a> {
    space: &'a Space,
    shootdown: &'a Shootdown,
    /// Does it look at what is pending?
    looks: bool,
}

impl Collapse for Ask<'_> {
    fn protection(&self, _: RegionId) -> Protection {
        WRITABLE
    }

    fn is_zero_at_first(&self, _: RegionId) -> bool {
        true
    }

    fn is_zero(&self, _: PhysFrame) -> bool {
        false
    }

    fn is_quiet(&self, _: Pages) -> bool {
        !self.looks || self.shootdown.is_quiet()
    }

    fn copy(&self, from: PhysFrame, to: PhysFrame) {
        self.space.memory.copy(from, to);
    }
}

/// Takes the permission to write from all pages.
struct Protect;

impl Rewrite for Protect {
    type Stop = core::convert::Infallible;
    const CHECKS: bool = false;
    const UNMAPS: bool = false;

    #[inline]
    fn gives_regions(&self) -> bool {
        false
    }

    fn check(&self, _: Found, _: Pages) -> Result<bool, Self::Stop> {
        Ok(true)
    }

    fn rewrite(&mut self, found: Found, _: Pages) -> Result<Becomes, Self::Stop> {
        Ok(match found {
            Found::Mapped(_, Some(region)) => Becomes::Mapped(READ_ONLY, region),
            _ => Becomes::Same,
        })
    }
}

/// Puts one leaf in the place of pages 0 and 1. Says whether that was done; the pages may be written all the time.
fn collapse(ask: &Ask<'_>) -> bool {
    let (space, pin) = (ask.space, pin(0));
    let mut reserve = Reserve::new(&space.memory, &pin);
    for _ in 0..3 {
        let mut changed = Changed::NOTHING;
        let tell = |changed: &mut Changed| {
            if changed.stale.is_some() {
                ask.shootdown.ask();
            }
        };
        let access = space.memory.by(&pin);
        let step = space.table.collapse(access, &mut reserve, (0, frame(NEW)), ask, &mut changed, tell);
        ask.shootdown.wait();
        match step.unwrap() {
            Collapsed::Done { leaves, .. } => {
                assert_eq!(leaves, 2);
                for old in [OLD, OLD + 1] {
                    space.memory.word(frame(old)).store(FREE, Ordering::Relaxed);
                }
                space.memory.retire(&pin, changed.retired.tables);
                return true;
            }
            Collapsed::Frozen(()) => {}
            Collapsed::Same => panic!("nothing is mapped"),
        }
    }
    false
}

/// What has been done to the pages before they are collapsed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// They have lost the permission to write, and nobody has waited for that.
    Protected,
}

fn collapse_meets_writes(before: Before, looks: bool) {
    // A collapse takes up to three rounds.
    explore_up_to(3, move || {
        let space = Space::mapped(0..=1);
        let shootdown = Shootdown::new();
        let answered = Arc::clone(&shootdown);
        let (written, done) = race(
            &space,
            move |space| {
                let mut writer = Writer::new(space, &answered);
                match before {
                    Before::Nothing => writer.write(1, answer),
                    Before::Protected => (1..=2).for_each(|value| writer.write(value, |_, _| false)),
                }
                writer.leave()
            },
            |space| {
                if before == Before::Protected {
                    let pin = pin(0);
                    let (mut reserve, mut changed) = (Reserve::new(&space.memory, &pin), Changed::NOTHING);
                    let pages = Pages { first: 0, last: 1 };
                    let access = space.memory.by(&pin);
                    let tell = |_: &mut Changed| shootdown.ask();
                    let protected =
                        space.table.rewrite(access, &mut reserve, pages, &mut Protect, &mut changed, tell);
                    assert!(protected.is_ok());
                }
                collapse(&Ask { space, shootdown: &shootdown, looks })
            },
        );
        let leaf = space.leaf().unwrap();
        assert_eq!(number(leaf.frame), if done { NEW } else { OLD });
        assert_eq!(space.memory.word(leaf.frame).load(Ordering::Relaxed), written, "a write is lost");
        if done {
            let freed = space.memory.word(frame(OLD)).load(Ordering::Relaxed);
            assert_eq!(freed, FREE, "a frame was written to that was free");
        }
    });
}

#[test]
fn no_write_is_lost_by_a_collapse() {
    collapse_meets_writes(Before::Nothing, true);
}

#[test]
fn a_collapse_waits_for_what_is_pending() {
    collapse_meets_writes(Before::Protected, true);
}

#[test]
#[should_panic(expected = "a write is lost")]
fn a_collapse_that_does_not_look_at_what_is_pending_is_caught() {
    collapse_meets_writes(Before::Protected, false);
}
