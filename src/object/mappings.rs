//! The list of an object's mappings: the records of spaces mapping the object.
//!
//! A record joins its object's list before any page has its number, and leaves it when no CPU can
//! use a former page. A pass through the list after a change of the object's pages therefore meets
//! each mapping made before the change. A fault in a mapping joining later sees the change.

use core::marker::PhantomData;
use core::ops::ControlFlow;
use core::ptr;

use topomem_numa::frames::AllocError;
use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::claim::{Claim, Claims, Conflict};
use super::core::{MemoryObject, ObjectCore};
use crate::Machine;
use crate::address_space::{SpaceCore, Unmapping, range_of_pages};
use crate::page_table::{Changed, Pages, RecordNumber, Rewrite, RewriteError, Rewritten};

/// A record's place in the list of its object.
pub(crate) struct MappingNode<P: Machine> {
    next: AtomicPtr<MappingNode<P>>,
    previous: AtomicPtr<MappingNode<P>>,
    space: AtomicPtr<SpaceCore<P>>,
    number: AtomicU32,
    /// The distance to add to a page of the space for the page of the object.
    back: AtomicU64,
    /// The bits of the record's [`Claim`].
    claim: AtomicU8,
}

// Relaxed: the lock of the node's list governs all fields.

impl<P: Machine> MappingNode<P> {
    pub(crate) fn new() -> MappingNode<P> {
        MappingNode {
            next: AtomicPtr::new(ptr::null_mut()),
            previous: AtomicPtr::new(ptr::null_mut()),
            space: AtomicPtr::new(ptr::null_mut()),
            number: AtomicU32::new(0),
            back: AtomicU64::new(0),
            claim: AtomicU8::new(Claim::NOTHING.bits()),
        }
    }

    pub(super) fn next(&self) -> *mut MappingNode<P> {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn claim(&self) -> Claim {
        Claim::of_bits(self.claim.load(Ordering::Relaxed))
    }

    /// Returns whether a page of address space has the record. Only for nodes in a list.
    pub(super) fn is_alive(&self) -> bool {
        // SAFETY: a space lives until its records have left their lists.
        let space = unsafe { self.space.load(Ordering::Relaxed).as_ref() };
        let number = RecordNumber::new(self.number.load(Ordering::Relaxed));
        space.zip(number).is_some_and(|(space, number)| space.records.is_alive(number))
    }

    /// Returns whether the node belongs to the record `number` of `space`.
    pub(super) fn is_of(&self, space: &SpaceCore<P>, number: RecordNumber) -> bool {
        ptr::eq(self.space.load(Ordering::Relaxed), space)
            && self.number.load(Ordering::Relaxed) == number.get()
    }
}

/// The list of an object.
pub(crate) struct Mappings<P: Machine> {
    pub(super) first: *mut MappingNode<P>,
    /// The node being visited by a pass through the list; it stays in the list.
    current: *mut MappingNode<P>,
    /// Number of nodes with each claim.
    pub(super) claims: Claims,
    space: PhantomData<SpaceCore<P>>,
}

// SAFETY: nodes are reached with the list locked, and stay in place while in the list.
unsafe impl<P: Machine> Send for Mappings<P> {}

impl<P: Machine> Mappings<P> {
    pub(crate) const NONE: Mappings<P> = Mappings {
        first: ptr::null_mut(),
        current: ptr::null_mut(),
        claims: Claims::NONE,
        space: PhantomData,
    };
}

/// A record's mapping of an object.
pub(crate) struct Mapped<P: Machine> {
    pub object: MemoryObject<P>,
    /// The distance, modulo 2^64, to add to a page of the space for the page of the object.
    pub back: u64,
    /// Whether shared mappings may become writable.
    pub writes: SharedWrites,
    /// The permissions of the pages with the record.
    pub claim: Claim,
}

/// Whether a shared mapping of an object may write to its pages, from the beginning or after a
/// later [`mprotect`](crate::AddressSpace::mprotect). Private mappings write to copies of their
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharedWrites {
    /// Writes are permitted.
    Permitted,
    /// Writes are denied: a file opened only for reading, for example.
    Denied,
}

impl<P: Machine> Clone for Mapped<P> {
    fn clone(&self) -> Mapped<P> {
        Mapped { object: self.object.clone(), ..*self }
    }
}

impl<P: Machine> PartialEq for Mapped<P> {
    fn eq(&self, other: &Mapped<P>) -> bool {
        self.object == other.object
            && self.back == other.back
            && self.writes == other.writes
            && self.claim == other.claim
    }
}

impl<P: Machine> Mapped<P> {
    /// Returns the page of the object mapped at the page `page` of the space.
    pub(crate) fn page(&self, page: u64) -> u64 {
        page.wrapping_add(self.back)
    }

    /// Adds the record `number` of `space`, with the place `node`, to the list, unless its claim is
    /// incompatible with a record in use. The record may be given to pages after
    /// [`ObjectCore::wait_for_opposed`](super::core::ObjectCore::wait_for_opposed) has returned.
    ///
    /// # Errors
    ///
    /// Returns [`Conflict`] if a record with an incompatible claim is in use. Nothing has changed
    /// then.
    ///
    /// # Safety
    ///
    /// `node` is in no list, and stays in place until it has left the list; so does `space`.
    pub(crate) unsafe fn join(
        &self,
        node: &MappingNode<P>,
        space: &SpaceCore<P>,
        number: RecordNumber,
    ) -> Result<(), Conflict> {
        let core = self.object.core();
        let mut list = core.mappings.lock(core.service.platform());
        if !core.permits_write_execute() && list.opposed(self.claim).any(MappingNode::is_alive) {
            return Err(Conflict);
        }
        list.claims.add(self.claim);
        node.claim.store(self.claim.bits(), Ordering::Relaxed);
        node.space.store(ptr::from_ref(space).cast_mut(), Ordering::Relaxed);
        node.number.store(number.get(), Ordering::Relaxed);
        node.back.store(self.back, Ordering::Relaxed);
        node.previous.store(ptr::null_mut(), Ordering::Relaxed);
        node.next.store(list.first, Ordering::Relaxed);
        let place = ptr::from_ref(node).cast_mut();
        // SAFETY: nodes in the list stay in place.
        if let Some(next) = unsafe { list.first.as_ref() } {
            next.previous.store(place, Ordering::Relaxed);
        }
        list.first = place;
        Ok(())
    }

    /// Removes `node` from the list. Returns false, and changes nothing, if the list is in use: the
    /// caller tries again later. Also for contexts in the middle of an interrupted use.
    pub(crate) fn try_leave(&self, node: &MappingNode<P>) -> bool {
        let Some(mut list) = self.object.core().mappings.try_lock() else {
            return false;
        };
        if ptr::eq(list.current, node) {
            return false;
        }
        list.claims.subtract(node.claim());
        let (next, previous) = (node.next.load(Ordering::Relaxed), node.previous.load(Ordering::Relaxed));
        // SAFETY: nodes in the list stay in place.
        let (following, preceding) = unsafe { (next.as_ref(), previous.as_ref()) };
        if let Some(following) = following {
            following.previous.store(previous, Ordering::Relaxed);
        }
        match preceding {
            Some(preceding) => preceding.next.store(next, Ordering::Relaxed),
            None => list.first = next,
        }
        true
    }
}

/// A mapping being visited.
pub(super) struct Mapping<'a, P: Machine> {
    pub space: &'a SpaceCore<P>,
    pub number: RecordNumber,
    pub claim: Claim,
    back: u64,
}

impl<P: Machine> Mapping<'_, P> {
    /// Returns the page of the object for `page` of the space, if the record maps it.
    pub(super) fn page(&self, page: u64) -> u64 {
        page.wrapping_add(self.back)
    }

    /// Returns the pages of the space possibly mapped to the pages from `first` to `last` of the
    /// object.
    fn pages(&self, first: u64, last: u64) -> Option<Pages> {
        // `back` is small or, modulo 2^64, negative.
        let bounds = self.space.bounds;
        let [first, last] = [first, last].map(|page| i128::from(page) - i128::from(self.back.cast_signed()));
        let first = first.max(bounds.first.into());
        let last = last.min(bounds.last.into());
        (first <= last).then_some(Pages { first: first as u64, last: last as u64 })
    }
}

impl<P: Machine> ObjectCore<P> {
    /// Rewrites the pages from `first` to `last` of the object in all mappings, one after the
    /// other, with the rewrite made by `rewrite` for each mapping, and waits for each change. The
    /// caller has the upkeep lock.
    pub(super) fn rewrite_mappings<'a, R: Rewrite>(
        &'a self,
        pin: &CpuPin,
        (first, last): (u64, u64),
        rewrite: impl Fn(Mapping<'a, P>) -> R,
    ) -> Result<(), AllocError> {
        let mut outcome = ControlFlow::Continue(());
        let mut error = None;
        while outcome.is_continue() {
            let Some(mapping) = self.next_mapping() else { break };
            let Some(pages) = mapping.pages(first, last) else { continue };
            let space = mapping.space;
            let mut changed = Changed::NOTHING;
            match space.rewrite(pin, pages, &mut rewrite(mapping), &mut changed) {
                Ok(Rewritten { recorded, .. }) => {
                    Unmapping::announce(space, pin, || range_of_pages(pages), changed, recorded).wait(pin);
                }
                Err(RewriteError::Tables(failed)) => {
                    error = Some(failed);
                    outcome = ControlFlow::Break(());
                }
                Err(RewriteError::Refused(_)) => debug_assert!(false, "such a change refuses nothing"),
            }
        }
        self.end_visit();
        error.map_or(Ok(()), Err)
    }

    /// Ends a pass through the mappings before its end.
    pub(super) fn end_visit(&self) {
        self.mappings.lock(self.service.platform()).current = ptr::null_mut();
    }

    /// Moves on to the next mapping, which stays in the list until the following call. The caller
    /// has the upkeep lock.
    pub(super) fn next_mapping(&self) -> Option<Mapping<'_, P>> {
        let mut list = self.mappings.lock(self.service.platform());
        // SAFETY: nodes in the list stay in place, and the current node stays in the list.
        let next = match unsafe { list.current.as_ref() } {
            None => list.first,
            Some(current) => current.next.load(Ordering::Relaxed),
        };
        // SAFETY: as above; a space lives until its records have left their lists.
        let (node, space) = unsafe {
            let node = next.as_ref()?;
            (node, node.space.load(Ordering::Relaxed).as_ref()?)
        };
        list.current = next;
        let number = RecordNumber::new(node.number.load(Ordering::Relaxed))?;
        Some(Mapping { space, number, claim: node.claim(), back: node.back.load(Ordering::Relaxed) })
    }
}
