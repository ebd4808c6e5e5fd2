//! Which records of which spaces map an object.
//!
//! A record joins the list of its object before a page has its number, and leaves it when no CPU can use a
//! page that had it. So whoever goes through the list after a change of the object's pages meets each
//! mapping that was made before; and a fault in one that joins later sees the change.

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
    /// What to add to a page of the space for the page of the object.
    back: AtomicU64,
    /// The bits of the record's [`Claim`].
    claim: AtomicU8,
}

// All fields are governed by the lock of the list that the node is in, hence Relaxed.

impl<P: Machine> MappingNode<P> {
    pub fn new() -> MappingNode<P> {
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

    /// Tells whether a page of address space has the record. Only for nodes that are in a list.
    pub(super) fn is_alive(&self) -> bool {
        // SAFETY: a space lives until its records have left their lists.
        let space = unsafe { self.space.load(Ordering::Relaxed).as_ref() };
        let number = RecordNumber::new(self.number.load(Ordering::Relaxed));
        space.zip(number).is_some_and(|(space, number)| space.records.is_alive(number))
    }

    /// Tells whether it is the node of the record `number` of `space`.
    pub(super) fn is_of(&self, space: &SpaceCore<P>, number: RecordNumber) -> bool {
        ptr::eq(self.space.load(Ordering::Relaxed), space)
            && self.number.load(Ordering::Relaxed) == number.get()
    }
}

/// The list of an object.
pub(crate) struct Mappings<P: Machine> {
    pub(super) first: *mut MappingNode<P>,
    /// What somebody who goes through the list is looking at: it stays in the list.
    current: *mut MappingNode<P>,
    /// How many nodes have which claims.
    pub(super) claims: Claims,
    space: PhantomData<SpaceCore<P>>,
}

// SAFETY: nodes are reached with the list locked, and stay where they are while they are in it.
unsafe impl<P: Machine> Send for Mappings<P> {}

impl<P: Machine> Mappings<P> {
    pub const NONE: Mappings<P> = Mappings {
        first: ptr::null_mut(),
        current: ptr::null_mut(),
        claims: Claims::NONE,
        space: PhantomData,
    };
}

/// What a record maps.
pub(crate) struct Mapped<P: Machine> {
    pub object: MemoryObject<P>,
    /// What to add to a page of the space, modulo 2^64, for the page of the object.
    pub back: u64,
    /// May shared mappings come to write?
    pub writes: SharedWrites,
    /// What the pages with the record permit.
    pub claim: Claim,
}

/// May a shared mapping of an object write to its pages, from the beginning or after a later
/// [`mprotect`](crate::AddressSpace::mprotect)? Private mappings write to copies of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharedWrites {
    /// Yes.
    Permitted,
    /// No: a file was opened for reading alone, say.
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
    /// Returns the page of the object that the page `page` of the space is mapped to.
    pub fn page(&self, page: u64) -> u64 {
        page.wrapping_add(self.back)
    }

    /// Has the record `number` of `space`, with the place `node`, join the list, unless its claim must not
    /// meet that of a record that is in use. If it joins, it may be given to pages once
    /// [`ObjectCore::wait_for_opposed`](super::core::ObjectCore::wait_for_opposed) has returned.
    ///
    /// # Errors
    ///
    /// [`Conflict`]; nothing has changed.
    ///
    /// # Safety
    ///
    /// `node` is in no list, and stays where it is until it has left this one; so does `space`.
    pub unsafe fn join(
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
        // SAFETY: nodes in the list stay where they are.
        if let Some(next) = unsafe { list.first.as_ref() } {
            next.previous.store(place, Ordering::Relaxed);
        }
        list.first = place;
        Ok(())
    }

    /// Takes `node`, which is in the list, out of it. Returns false, and does nothing, if the list is in use:
    /// the caller tries again later. Also for contexts that have interrupted a use.
    pub fn try_leave(&self, node: &MappingNode<P>) -> bool {
        let Some(mut list) = self.object.core().mappings.try_lock() else {
            return false;
        };
        if ptr::eq(list.current, node) {
            return false;
        }
        list.claims.subtract(node.claim());
        let (next, previous) = (node.next.load(Ordering::Relaxed), node.previous.load(Ordering::Relaxed));
        // SAFETY: nodes in the list stay where they are.
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

/// One mapping, while somebody looks at it.
pub(super) struct Mapping<'a, P: Machine> {
    pub space: &'a SpaceCore<P>,
    pub number: RecordNumber,
    pub claim: Claim,
    back: u64,
}

impl<P: Machine> Mapping<'_, P> {
    /// Returns the page of the object that `page` of the space is mapped to, if it is by this record.
    pub fn page(&self, page: u64) -> u64 {
        page.wrapping_add(self.back)
    }

    /// Returns the pages of the space that the pages from `first` to `last` of the object may be mapped at.
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
    /// Rewrites the pages from `first` to `last` of the object in all mappings, one after the other, as
    /// `rewrite` makes it of a mapping, and waits for each change. The caller has the upkeep lock.
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

    /// Ends a look at mappings one after the other before its end.
    pub(super) fn end_visit(&self) {
        self.mappings.lock(self.service.platform()).current = ptr::null_mut();
    }

    /// Goes on to the next mapping, which stays in the list until the one after it is asked for. The caller
    /// has the upkeep lock.
    pub(super) fn next_mapping(&self) -> Option<Mapping<'_, P>> {
        let mut list = self.mappings.lock(self.service.platform());
        // SAFETY: nodes in the list stay where they are, and the current one stays in it.
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
