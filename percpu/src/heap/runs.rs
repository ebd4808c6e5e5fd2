//! What starts at which page of the heap's runs: a radix tree over addresses.
//!
//! Every run that holds objects is recorded: slabs by their class, large objects by their order. So
//! a free or a change of size that the headers of slabs cannot answer is answered without a look
//! at memory that may be somebody else's: which order a large object has, whether one is there at
//! all, and in which slab an address lies that is in none of its layout's class.
//!
//! The tree has an inner table per 2^51, 2^42 and 2^33 bytes, and a leaf per 16 MiB, with a byte for
//! each page. Tables are made when first needed, and stay until the heap is dropped: at most a page
//! per 16 MiB that the heap ever used. Nobody waits: each entry is one atomic, and of two contexts
//! that make the same table one gives its own back.

use core::mem;
use core::ptr::{self, NonNull};

use super::{AllocError, Heap};
use crate::slab::SizeClass;
use crate::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use crate::{CpuPin, NodeId, Order, PageSource, Platform};

const PAGE_BITS: u32 = 12;
/// A leaf has a byte for each of 4096 pages.
const LEAF_BITS: u32 = 12;
const INNER_BITS: u32 = 9;
const INNER_SHIFT: [u32; 3] =
    [PAGE_BITS + LEAF_BITS + 2 * INNER_BITS, PAGE_BITS + LEAF_BITS + INNER_BITS, PAGE_BITS + LEAF_BITS];
const ROOT_SHIFT: u32 = INNER_SHIFT[0] + INNER_BITS;
/// The root tells 2^57 bytes apart. No processor translates more: further bits repeat the sign.
const ROOT_ENTRIES: usize = 1 << (57 - ROOT_SHIFT);

/// Pointers to the tables of the next level: inner ones, or leaves on the last.
struct Inner {
    children: [AtomicPtr<u8>; 1 << INNER_BITS],
}

struct Leaf {
    entries: [AtomicU8; 1 << LEAF_BITS],
}

const _: () = assert!(cfg!(loom) || mem::size_of::<Inner>() as u64 == Order::FRAME.bytes());
const _: () = assert!(cfg!(loom) || mem::size_of::<Leaf>() as u64 == Order::FRAME.bytes());

/// What starts at a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// A slab.
    Slab(SizeClass),
    /// A large object, in a run of this order.
    Large(Order),
}

/// The entry of a page at which nothing starts.
const NOTHING: u8 = 0;
const LARGE: u8 = 128;

impl Run {
    fn encode(self) -> u8 {
        match self {
            // Fewer than 127 classes, and orders.
            Run::Slab(class) => 1 + class.index() as u8,
            Run::Large(order) => LARGE + order.get(),
        }
    }

    fn decode(entry: u8) -> Option<Run> {
        match entry {
            NOTHING => None,
            LARGE.. => Order::new(entry - LARGE).map(Run::Large),
            _ => SizeClass::new(usize::from(entry) - 1).map(Run::Slab),
        }
    }
}

/// The record of one heap's runs.
pub(super) struct Runs {
    /// Null, or a table that lives until the heap is dropped.
    root: [AtomicPtr<u8>; ROOT_ENTRIES],
    /// How many tables there are; orders nothing.
    tables: AtomicU64,
}

impl Runs {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Runs {
        Runs { root: [const { AtomicPtr::new(ptr::null_mut()) }; ROOT_ENTRIES], tables: AtomicU64::new(0) }
    }

    #[cfg(loom)]
    pub(super) fn new() -> Runs {
        Runs { root: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())), tables: AtomicU64::new(0) }
    }

    /// Bytes of the record's tables.
    pub(super) fn bytes(&self) -> u64 {
        self.tables.load(Ordering::Relaxed) * Order::FRAME.bytes()
    }

    /// What starts at `address`.
    pub(super) fn at(&self, address: usize) -> Option<Run> {
        if address & ((1 << PAGE_BITS) - 1) != 0 {
            return None;
        }
        let mut place = &self.root[root_index(address)];
        for shift in INNER_SHIFT {
            // SAFETY: the places of the root and of all levels but the last lead to inner tables.
            place = unsafe { &existing::<Inner>(place)?.children[inner_index(address, shift)] };
        }
        // SAFETY: the places of the last level lead to leaves.
        let leaf = unsafe { existing::<Leaf>(place) }?;
        // Relaxed: whoever owns an object learned of it from its allocation, which recorded the
        // run. For anybody else any answer is as good.
        Run::decode(leaf.entries[leaf_index(address)].load(Ordering::Relaxed))
    }

    /// Strikes `run` off; false if it was not recorded at `address`. Of several contexts that try
    /// one is told that it was.
    pub(super) fn strike(&self, address: usize, run: Run) -> bool {
        let mut place = &self.root[root_index(address)];
        for shift in INNER_SHIFT {
            // SAFETY: as in `at`.
            let Some(inner) = (unsafe { existing::<Inner>(place) }) else { return false };
            place = &inner.children[inner_index(address, shift)];
        }
        // SAFETY: as in `at`.
        let Some(leaf) = (unsafe { existing::<Leaf>(place) }) else { return false };
        // Relaxed: decides who it is, and orders nothing.
        leaf.entries[leaf_index(address)]
            .compare_exchange(run.encode(), NOTHING, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

fn root_index(address: usize) -> usize {
    (address >> ROOT_SHIFT) % ROOT_ENTRIES
}

fn inner_index(address: usize, shift: u32) -> usize {
    (address >> shift) % (1 << INNER_BITS)
}

fn leaf_index(address: usize) -> usize {
    (address >> PAGE_BITS) % (1 << LEAF_BITS)
}

/// The table at `place`, if there is one.
///
/// # Safety
///
/// `place` is null, or leads to a `T` that lives as long as the place.
unsafe fn existing<T>(place: &AtomicPtr<u8>) -> Option<&T> {
    // Acquire pairs with the Release in `table`: who sees the address sees the empty table.
    // SAFETY: the caller's promise.
    unsafe { place.load(Ordering::Acquire).cast::<T>().as_ref() }
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Records that `run` starts at `address`, in tables near `node`.
    pub(super) fn record(
        &self,
        pin: &CpuPin,
        node: NodeId,
        address: usize,
        run: Run,
    ) -> Result<(), AllocError> {
        let mut place = &self.runs.root[root_index(address)];
        for shift in INNER_SHIFT {
            // SAFETY: the places of the root and of all levels but the last lead to inner tables.
            let inner = unsafe { self.table::<Inner>(pin, node, place) }?;
            place = &inner.children[inner_index(address, shift)];
        }
        // SAFETY: the places of the last level lead to leaves.
        let leaf = unsafe { self.table::<Leaf>(pin, node, place) }?;
        // Relaxed: see `Runs::at`.
        leaf.entries[leaf_index(address)].store(run.encode(), Ordering::Relaxed);
        Ok(())
    }

    /// The table at `place`, made if need be.
    ///
    /// # Safety
    ///
    /// `place` is null, or leads to a `T`, which is an inner table or a leaf.
    unsafe fn table<'a, T>(
        &self,
        pin: &CpuPin,
        node: NodeId,
        place: &'a AtomicPtr<u8>,
    ) -> Result<&'a T, AllocError> {
        // SAFETY: the caller's promise; tables live until the heap is dropped.
        if let Some(table) = unsafe { existing(place) } {
            return Ok(table);
        }
        let page = self.pages(pin, node, Order::FRAME)?;
        // SAFETY: the page is ours. Zeroes are null pointers, or entries that say `NOTHING`.
        unsafe { page.write_bytes(0, Order::FRAME.bytes() as usize) };
        // Release pairs with the Acquire here and in `existing`.
        let current =
            place.compare_exchange(ptr::null_mut(), page.as_ptr(), Ordering::Release, Ordering::Acquire);
        let table = match current {
            Ok(_) => {
                self.runs.tables.fetch_add(1, Ordering::Relaxed);
                page.as_ptr()
            }
            Err(first) => {
                // SAFETY: nobody has seen ours.
                unsafe { self.source.free(pin, page, Order::FRAME) };
                first
            }
        };
        // SAFETY: the address is not null: it is the page's, or that of the table that was there.
        Ok(unsafe { &*table.cast::<T>() })
    }

    /// Returns the tables' pages.
    ///
    /// # Safety
    ///
    /// Nobody uses the heap any more.
    pub(super) unsafe fn free_tables(&self, pin: &CpuPin) {
        for place in &self.runs.root {
            // SAFETY: the caller's promise; below the root there are three levels of inner tables.
            unsafe { self.free_table(pin, place, INNER_SHIFT.len()) };
        }
    }

    /// # Safety
    ///
    /// As for [`Heap::free_tables`]; at `place` begin `levels` levels of inner tables.
    unsafe fn free_table(&self, pin: &CpuPin, place: &AtomicPtr<u8>, levels: usize) {
        let Some(page) = NonNull::new(place.swap(ptr::null_mut(), Ordering::Acquire)) else { return };
        if levels > 0 {
            // SAFETY: the caller's promise.
            let inner = unsafe { page.cast::<Inner>().as_ref() };
            for child in &inner.children {
                // SAFETY: the caller's promise.
                unsafe { self.free_table(pin, child, levels - 1) };
            }
        }
        // SAFETY: the page came from the source with this order, and nobody uses it.
        unsafe { self.source.free(pin, page, Order::FRAME) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_was_recorded() {
        let runs = SizeClass::all().map(Run::Slab).chain(Order::all().map(Run::Large));
        for run in runs {
            assert_eq!(Run::decode(run.encode()), Some(run));
        }
        assert_eq!(Run::decode(NOTHING), None);
        assert_eq!(ROOT_SHIFT, 51);
    }
}
