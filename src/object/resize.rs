//! Removing pages from an object, to shorten it or to punch a hole into it.
//!
//! Pages are first marked dead: dead pages get no new mappings. Their earlier mappings are then
//! removed through the object's list of mappings, and the tickets awaited. A fault looks at the
//! page with the page's entry claimed: either the fault finds the page dead, or the removal finds
//! the fault's mapping. Only then does the object give up its hold of the frames.

use core::ops::{ControlFlow, Range};

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use super::ObjectError;
use super::core::{MemoryObject, ObjectCore, Source};
use super::mappings::Mapping;
use super::pages::index::MOST_PAGES;
use super::pages::word::{State, Word};
use super::paging::queue::Wanted;
use crate::Machine;
use crate::page_table::{Becomes, Found, Ownership, Pages, Rewrite};

/// The mappings to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victims {
    /// All mappings, private copies too: the object ends before the pages.
    All,
    /// Mappings of the object's own frames.
    OwnFrames,
}

/// Removes mappings of an object's pages.
struct TakeOut<'a, P: Machine> {
    core: &'a ObjectCore<P>,
    mapping: Mapping<'a, P>,
    victims: Victims,
}

impl<P: Machine> TakeOut<'_, P> {
    fn concerns(&self, found: Found, page: u64) -> bool {
        let Found::Mapped(leaf, Some(region)) = found else { return false };
        region.record() == Some(self.mapping.number)
            && (self.victims == Victims::All
                || leaf.ownership == Ownership::Shared
                    && self
                        .core
                        .frame_of(self.mapping.page(page))
                        .is_some_and(|word| word.frame() == leaf.frame && word.state() == State::Dead))
    }
}

impl<P: Machine> Rewrite for TakeOut<'_, P> {
    type Stop = core::convert::Infallible;
    const CHECKS: bool = false;
    const UNMAPS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        false
    }

    fn check(&self, found: Found, pages: Pages) -> Result<bool, Self::Stop> {
        Ok(self.concerns(found, pages.first))
    }

    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, Self::Stop> {
        Ok(match found {
            Found::Mapped(_, Some(region)) if self.concerns(found, pages.first) => Becomes::Reserved(region),
            _ => Becomes::Same,
        })
    }
}

impl<P: Machine> ObjectCore<P> {
    /// Removes the pages from `first` to `last`, with their mappings selected by `victims`. The
    /// caller has the upkeep lock.
    fn take_out(&self, pin: &CpuPin, (first, last): (u64, u64), victims: Victims) -> Result<(), ObjectError> {
        self.index.for_each(self.service, first, last, &mut |_, word| {
            word.kill();
            ControlFlow::Continue(())
        });
        let rewritten =
            self.rewrite_mappings(pin, (first, last), |mapping| TakeOut { core: self, mapping, victims });
        if let Err(error) = rewritten {
            self.index.for_each(self.service, first, last, &mut |_, word| {
                word.update(|now| (now.state() == State::Dead).then_some(now.alive()));
                ControlFlow::Continue(())
            });
            return Err(ObjectError::OutOfFrames(error));
        }
        self.index.for_each(self.service, first, last, &mut |_, word| {
            loop {
                let now = word.load();
                if now.state() != State::Dead {
                    break;
                }
                // Uses are short: a copier of bytes never waits.
                if !now.is_used() && word.replace(now, Word::ABSENT).is_ok() {
                    // SAFETY: the page was dead during the removal of all mappings and the wait for
                    // their tickets.
                    unsafe { self.release(pin, now) };
                    break;
                }
                self.service.platform().relax();
            }
            ControlFlow::Continue(())
        });
        Ok(())
    }

    /// Zeroes the bytes from `end` on in their page, if it is in memory.
    fn zero_from(&self, end: u64) {
        let (page, within) = (end >> 12, (end & 4095) as usize);
        if within == 0 {
            return;
        }
        let Some(word) = self.index.get(self.service, page) else { return };
        // A page being read in was requested with another end.
        word.update(|now| matches!(now.state(), State::Loading(_)).then_some(Word::ABSENT));
        if let Some(used) = self.use_page(word) {
            super::pages::bytes::fill(self.service, used.frame(), within, 4096 - within);
        }
    }

    /// Returns the slot of the request to discard the part of the file with `page`, if under way.
    pub(super) fn discarding(&self, page: u64) -> Option<usize> {
        let discard = self.discard.lock(self.service.platform());
        discard.as_ref().filter(|(range, _)| range.contains(&page)).map(|&(_, slot)| slot)
    }

    pub(super) fn end_discard(&self) {
        *self.discard.lock(self.service.platform()) = None;
    }
}

impl<P: Machine> MemoryObject<P> {
    /// Sets the object's length to `bytes`. Bytes cut off are removed from all mappings, along with
    /// private mappings' copies; later accesses are [beyond the
    /// end](crate::region::FaultError::BeyondEnd). Added bytes are zero, and so is the rest of the
    /// last page, which mappings show.
    ///
    /// Waits until no CPU can use the bytes cut off, and serves remote CPUs' shootdowns meanwhile.
    /// Cost: a look at each page cut off, in each mapping.
    ///
    /// # Errors
    ///
    /// - [`ObjectError::TooLarge`] if no object can have the length. Nothing has changed then.
    /// - [`ObjectError::OutOfFrames`] if no memory to list the pages cut off is left. The size is
    ///   then unchanged, but private copies may have gone.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 4096)?;
    /// object.set_size(pin, 1 << 20)?;
    /// assert_eq!(object.size(), 1 << 20);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_size(&self, pin: &CpuPin, bytes: u64) -> Result<(), ObjectError> {
        if bytes > MOST_PAGES << 12 {
            return Err(ObjectError::TooLarge);
        }
        let core = self.core();
        let _upkeep = core.upkeep.lock(core.service.platform());
        // Release pairs with the Acquire in `pages`.
        let before = core.size.swap(bytes, Ordering::AcqRel);
        let (old, new) = (before.div_ceil(4096), bytes.div_ceil(4096));
        if new < old {
            core.take_out(pin, (new, old - 1), Victims::All).inspect_err(|_| {
                core.size.store(before, Ordering::Release);
            })?;
        }
        core.zero_from(before.min(bytes));
        Ok(())
    }

    /// Discards the bytes of `range`, and removes its whole pages from memory. Later reads find
    /// zeros, in all shared mappings and in private mappings without a copy (madvise(MADV_REMOVE),
    /// fallocate(FALLOC_FL_PUNCH_HOLE) of Linux). A pager is told
    /// ([`Pager::discard`](super::Pager::discard)) and awaited.
    ///
    /// # Errors
    ///
    /// Bytes of the range may be zero or not on an error:
    ///
    /// - [`ObjectError::Pager`] if the pager failed.
    /// - [`ObjectError::OutOfFrames`] if no frame is left.
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
    /// object.try_write(pin, 0, b"bytes")?;
    /// let done = pin!(object.punch_hole(0..4096)).poll(&mut Context::from_waker(Waker::noop()));
    /// assert_eq!(done, Poll::Ready(Ok(())));
    /// assert_eq!(object.resident_pages(), 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub async fn punch_hole(&self, range: Range<u64>) -> Result<(), ObjectError> {
        let core = self.core();
        let (start, end) = (range.start, range.end.min(self.size()));
        if start >= end {
            return Ok(());
        }
        let (first, after) = (start.div_ceil(4096), end >> 12);
        // The last page of the object counts as whole if all of its bytes are in the range.
        let after = if end == self.size() { end.div_ceil(4096) } else { after };
        if first >= after {
            return self.write_zeros(start, end).await;
        }
        self.write_zeros(start, first << 12).await?;
        if after << 12 < end {
            self.write_zeros(after << 12, end).await?;
        }
        let Source::Pager { requests, .. } = &core.source else {
            let pin = self.pin();
            let _upkeep = core.upkeep.lock(core.service.platform());
            return core.take_out(&pin, (first, after - 1), Victims::OwnFrames);
        };
        let wait = loop {
            let Some((slot, wait)) = requests.reserve() else {
                if let Some(any) = requests.join_any() {
                    let _ = any.await;
                }
                continue;
            };
            let other = {
                let mut discard = core.discard.lock(core.service.platform());
                let other = discard.as_ref().map(|&(_, slot)| slot);
                if other.is_none() {
                    *discard = Some((first..after, slot));
                }
                other
            };
            if let Some(other) = other {
                drop(wait);
                if let Some(other) = requests.join_slot(other) {
                    let _ = other.await;
                }
                continue;
            }
            let taken = {
                let pin = self.pin();
                let _upkeep = core.upkeep.lock(core.service.platform());
                core.take_out(&pin, (first, after - 1), Victims::OwnFrames)
            };
            if let Err(error) = taken {
                core.end_discard();
                return Err(error);
            }
            requests.ask(slot, self.clone(), Wanted::Discard { first, last: after - 1 });
            break wait;
        };
        wait.await.map_err(ObjectError::Pager)
    }

    /// Writes zeros from `start` to `end`, within a page.
    async fn write_zeros(&self, start: u64, end: u64) -> Result<(), ObjectError> {
        const ZEROS: &[u8] = &[0; 4096];
        let mut at = start;
        while at < end {
            let part = (end - at).min(4096) as usize;
            match self.write(at, &ZEROS[..part]).await? {
                0 => break,
                done => at += done as u64,
            }
        }
        Ok(())
    }
}
