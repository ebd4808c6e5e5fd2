//! Writing pages back, and evicting clean pages.
//!
//! A page of a file is *clean*, *dirty* or *being written*. A clean page is mapped without write
//! permission, and the first write makes it dirty, in a fault. To write a page back, the page is
//! first marked as being written. Its shared mappings then lose write permission, and the tickets
//! are awaited. Only then are the bytes read. A program's write is therefore either among these
//! bytes, or made the page dirty again; the page then stays dirty after the pager is done.

use core::ops::{ControlFlow, Range};

use topomem_numa::frames::AllocError;
use topomem_percpu::CpuPin;

use super::queue::Wanted;
use crate::Machine;
use crate::object::ObjectError;
use crate::object::core::{MemoryObject, ObjectCore, Source};
use crate::object::mappings::Mapping;
use crate::object::pages::word::{State, Word, WriteBack};
use crate::page_table::{Access, Becomes, Found, Leaf, Ownership, Pages, Rewrite};

/// Number of pages written back, or evicted, together.
const AT_ONCE: usize = 16;

/// The state of an object's page, for mincore(2) and statistics.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::object::{MemoryObject, Residency};
///
/// let object = MemoryObject::anonymous(service, pin, 4096)?;
/// assert_eq!(object.residency(0), Residency::Absent);
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Residency {
    /// Not in memory, or on its way in or out.
    Absent,
    /// In memory, and equal to the pager's version.
    Clean,
    /// In memory, and possibly different from the pager's version; always in an anonymous object.
    Dirty,
    /// Being written back.
    Writing,
}

/// The change of mappings of a batch of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Writable mappings lose write permission, if the page is being written back.
    WriteProtect,
    /// Mappings are removed, if the page is to leave.
    Unmap,
}

struct Upkeep<'a, P: Machine> {
    core: &'a ObjectCore<P>,
    mapping: Mapping<'a, P>,
    change: Change,
}

impl<P: Machine> Upkeep<'_, P> {
    /// Returns whether `leaf`, at `page` of the space, is a mapping to change.
    fn concerns(&self, leaf: &Leaf, page: u64) -> bool {
        if leaf.ownership != Ownership::Shared {
            return false;
        }
        let word = self.core.frame_of(self.mapping.page(page)).filter(|word| word.frame() == leaf.frame);
        word.is_some_and(|word| match self.change {
            Change::WriteProtect => word.is_writing() && leaf.protection.access().writes(),
            Change::Unmap => word.is_evicting(),
        })
    }
}

impl<P: Machine> Rewrite for Upkeep<'_, P> {
    type Stop = core::convert::Infallible;
    const CHECKS: bool = false;
    const UNMAPS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        // Mapped pages keep their region.
        false
    }

    fn check(&self, found: Found, pages: Pages) -> Result<bool, Self::Stop> {
        Ok(match found {
            Found::Mapped(leaf, Some(region)) => {
                region.record() == Some(self.mapping.number) && self.concerns(&leaf, pages.first)
            }
            _ => false,
        })
    }

    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, Self::Stop> {
        let Found::Mapped(leaf, Some(region)) = found else { return Ok(Becomes::Same) };
        if !self.check(found, pages)? {
            return Ok(Becomes::Same);
        }
        Ok(match self.change {
            Change::Unmap => Becomes::Reserved(region),
            Change::WriteProtect => {
                let access = Access::from_bits(false, leaf.protection.access().executes());
                Becomes::Mapped(leaf.protection.with_access(access), region)
            }
        })
    }
}

/// Pages of an object.
#[derive(Clone, Copy)]
struct WriteBatch {
    pages: [u64; AT_ONCE],
    length: usize,
}

impl WriteBatch {
    const EMPTY: WriteBatch = WriteBatch { pages: [0; AT_ONCE], length: 0 };

    /// Adds a page, and breaks if no room for further pages is left.
    fn push(&mut self, page: u64) -> ControlFlow<()> {
        self.pages[self.length] = page;
        self.length += 1;
        if self.length == AT_ONCE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn as_slice(&self) -> &[u64] {
        &self.pages[..self.length]
    }

    fn ends(&self) -> Option<(u64, u64)> {
        Some((*self.as_slice().first()?, *self.as_slice().last()?))
    }
}

/// Pages marked as being written and not with the pager yet: dirty again on drop.
struct Marked<'a, P: Machine> {
    core: &'a ObjectCore<P>,
    batch: WriteBatch,
    /// Number of pages the pager has been asked to write.
    asked: usize,
}

impl<P: Machine> Drop for Marked<'_, P> {
    fn drop(&mut self) {
        for &page in &self.batch.as_slice()[self.asked..] {
            if let Some(word) = self.core.index.get(self.core.service, page) {
                word.end_writing(Err(()));
            }
        }
    }
}

/// The outcome of a look for pages to write back.
enum Begun<'a, P: Machine> {
    /// Pages ready to be written back.
    Pages(Marked<'a, P>),
    /// A page being written back by another context.
    Others(u64),
    /// Nothing to write.
    Nothing,
}

impl<P: Machine> ObjectCore<P> {
    /// Marks the first dirty pages from `first` to `last` as being written, and removes write
    /// permission from their shared mappings.
    fn begin_writing(&self, pin: &CpuPin, first: u64, last: u64) -> Result<Begun<'_, P>, AllocError> {
        let _upkeep = self.upkeep.lock(self.service.platform());
        let mut batch = WriteBatch::EMPTY;
        let mut others = None;
        self.index.for_each(self.service, first, last, &mut |page, word| match word.begin_writing() {
            WriteBack::Begun => batch.push(page),
            WriteBack::UnderWay => {
                others = Some(page);
                ControlFlow::Break(())
            }
            WriteBack::Nothing => ControlFlow::Continue(()),
        });
        let marked = Marked { core: self, batch, asked: 0 };
        let Some(ends) = batch.ends() else {
            return Ok(others.map_or(Begun::Nothing, Begun::Others));
        };
        let change = Change::WriteProtect;
        self.service.fault.write_protect(|| {
            self.rewrite_mappings(pin, ends, |mapping| Upkeep { core: self, mapping, change })
        })?;
        Ok(Begun::Pages(marked))
    }
}

impl<P: Machine> MemoryObject<P> {
    /// Writes back the dirty pages of `range` through the pager (msync(MS_SYNC), fsync of POSIX).
    /// On return, the pager has all bytes of the range written before the call. A page written
    /// meanwhile stays dirty.
    ///
    /// Does nothing for an anonymous object. The future may be dropped at any time: pages not yet
    /// requested from the pager are as dirty as before.
    ///
    /// # Errors
    ///
    /// - [`ObjectError::Pager`] if the pager failed to write a page. The page stays dirty; the rest
    ///   is written.
    /// - [`ObjectError::OutOfFrames`] if no frame is left. Pages from some place on are not written
    ///   then.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// let synced = pin!(object.sync(0..8192)).poll(&mut Context::from_waker(Waker::noop()));
    /// assert_eq!(synced, Poll::Ready(Ok(()))); // an anonymous object has no pager
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub async fn sync(&self, range: Range<u64>) -> Result<(), ObjectError> {
        let core = self.core();
        let Source::Pager { requests, .. } = &core.source else { return Ok(()) };
        let Some(last) = range.end.checked_sub(1).map(|last| last >> 12) else { return Ok(()) };
        let mut next = range.start >> 12;
        let mut outcome = Ok(());
        while next <= last {
            let begun = core.begin_writing(&self.pin(), next, last).map_err(ObjectError::OutOfFrames)?;
            let mut marked = match begun {
                Begun::Nothing => break,
                Begun::Others(page) => {
                    let wanted = |wanted| matches!(wanted, Wanted::Write { page: of } if of == page);
                    match requests.find(self, wanted) {
                        // The page may be dirty again, or have been written before this call.
                        Some(wait) => {
                            let _ = wait.await;
                        }
                        None => yield_once().await,
                    }
                    continue;
                }
                Begun::Pages(marked) => marked,
            };
            next = marked.batch.ends().map_or(last, |(_, end)| end) + 1;
            let mut waits = [const { None }; AT_ONCE];
            for (&page, place) in marked.batch.as_slice().iter().zip(&mut waits) {
                let (slot, wait) = loop {
                    match requests.reserve() {
                        Some(reserved) => break reserved,
                        None => {
                            if let Some(any) = requests.join_any() {
                                let _ = any.await;
                            }
                        }
                    }
                };
                requests.ask(slot, self.clone(), Wanted::Write { page });
                marked.asked += 1;
                *place = Some(wait);
            }
            for wait in waits.into_iter().flatten() {
                outcome = outcome.and(wait.await);
            }
        }
        outcome.map_err(ObjectError::Pager)
    }

    /// Evicts clean pages of `range` from memory, with their mappings, and returns their number.
    /// The pages are read in again at their next use. Pages of an anonymous object never leave.
    ///
    /// Waits until no CPU can use the pages, and serves remote CPUs' shootdowns meanwhile. Stops
    /// early if memory for the removal runs out.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// assert_eq!(object.evict(pin, 0..8192), 0); // an anonymous object keeps its pages
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn evict(&self, pin: &CpuPin, range: Range<u64>) -> u64 {
        let core = self.core();
        let Some(last) = range.end.checked_sub(1).map(|last| last >> 12) else { return 0 };
        let mut next = range.start >> 12;
        let mut evicted = 0;
        let _upkeep = core.upkeep.lock(core.service.platform());
        while core.is_tracked() && next <= last {
            let mut batch = WriteBatch::EMPTY;
            core.index.for_each(core.service, next, last, &mut |page, word| match word
                .update(|now| now.is_idle().then_some(now.evicting()))
            {
                Some(_) => batch.push(page),
                None => ControlFlow::Continue(()),
            });
            let Some(ends) = batch.ends() else { break };
            next = ends.1 + 1;
            let unmap = |mapping| Upkeep { core, mapping, change: Change::Unmap };
            if core.rewrite_mappings(pin, ends, unmap).is_err() {
                break;
            }
            for &page in batch.as_slice() {
                let Some(word) = core.index.get(core.service, page) else { continue };
                // A context mapping or using the page meanwhile has removed the mark.
                let taken = word.update(|now| (now.is_evicting() && now.is_idle()).then_some(Word::ABSENT));
                if let Some(word) = taken {
                    // SAFETY: the page has got no mapping since it was marked, and the tickets of
                    // earlier mappings are complete.
                    unsafe { core.release(pin, word) };
                    evicted += 1;
                }
            }
        }
        evicted
    }

    /// Returns the state of the page with the byte at `offset`.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::{MemoryObject, Residency};
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// object.try_write(pin, 0, b"x")?;
    /// assert_eq!(object.residency(0), Residency::Dirty);
    /// assert_eq!(object.residency(4096), Residency::Absent);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn residency(&self, offset: u64) -> Residency {
        let core = self.core();
        match core.frame_of(offset >> 12).filter(|word| word.state() != State::Dead) {
            None => Residency::Absent,
            Some(word) if word.is_writing() => Residency::Writing,
            Some(word) if word.is_dirty() => Residency::Dirty,
            Some(_) => Residency::Clean,
        }
    }
}

/// Lets the remaining tasks run once.
async fn yield_once() {
    let mut yielded = false;
    core::future::poll_fn(|context| {
        if yielded {
            return core::task::Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        core::task::Poll::Pending
    })
    .await;
}
