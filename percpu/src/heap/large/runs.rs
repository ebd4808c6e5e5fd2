//! The record of the heap's runs by their first pages: a radix tree over addresses.
//!
//! Every run with objects is recorded: slabs by their class, large objects by their length and the
//! requested node. So frees and changes of size that the slab headers cannot decide are decided
//! without reading memory that may belong to another owner. The record tells the length of a large
//! object, its existence, and the slab around an address outside its layout's class.
//!
//! Only the object's owner writes the entry of a large object: the context that allocates the
//! object, and then the context that frees it. A run kept by a CPU for the next large object stays
//! in the record, marked as cached, so a second free of it is found.
//!
//! The tree has an inner table per 2^50, 2^41 and 2^32 bytes, and a leaf per 8 MiB, with two bytes
//! for each page. Tables are created on demand, and stay until the heap is dropped: at most a page
//! per 8 MiB ever used by the heap. No context waits: each entry is one atomic, and of two contexts
//! creating the same table one frees its own.

use core::mem;
use core::ptr::{self, NonNull};

use crate::heap::large::run::{LargeRun, NOTHING, Run};
use crate::heap::{AllocError, Heap};
use crate::slab::{CHECKED, SizeClass, SlabShape};
use crate::sync::atomic::{AtomicPtr, AtomicU16, AtomicU64, Ordering};
use crate::{CpuPin, NodeId, Order, PageSource, Platform, RunLength};

const PAGE_BITS: u32 = 12;
/// A leaf has an entry for each of 2048 pages.
const LEAF_BITS: u32 = 11;
const INNER_BITS: u32 = 9;
const INNER_SHIFT: [u32; 3] =
    [PAGE_BITS + LEAF_BITS + 2 * INNER_BITS, PAGE_BITS + LEAF_BITS + INNER_BITS, PAGE_BITS + LEAF_BITS];
const ROOT_SHIFT: u32 = INNER_SHIFT[0] + INNER_BITS;
const _: () = assert!(ROOT_SHIFT == 50);
/// The root distinguishes 2^57 bytes. No processor translates more: further bits repeat the sign.
const ROOT_ENTRIES: usize = 1 << (57 - ROOT_SHIFT);

/// Pointers to the tables of the next level: inner tables, or leaves on the last.
struct Inner {
    children: [AtomicPtr<u8>; 1 << INNER_BITS],
}

/// The entries of 8 MiB.
pub(in crate::heap) struct Leaf {
    entries: [AtomicU16; 1 << LEAF_BITS],
}

const _: () = assert!(cfg!(loom) || mem::size_of::<Inner>() as u64 == Order::FRAME.bytes());
const _: () = assert!(cfg!(loom) || mem::size_of::<Leaf>() as u64 == Order::FRAME.bytes());

/// The largest order of a slab.
const MAX_SLAB_ORDER: u8 = {
    let mut largest = 0;
    let mut class = 0;
    while class < SlabShape::ALL.len() {
        let order = SlabShape::ALL[class].order.get();
        if order > largest {
            largest = order;
        }
        class += 1;
    }
    largest
};

impl Leaf {
    /// Returns the number of the leaf with the entry of `address`.
    #[inline]
    pub(in crate::heap) const fn number_of(address: usize) -> usize {
        address >> (PAGE_BITS + LEAF_BITS)
    }

    #[inline]
    fn entry(&self, address: usize) -> &AtomicU16 {
        &self.entries[leaf_index(address)]
    }

    /// Marks the large object at `address`, in this leaf, as cached. Returns false if `run` is not
    /// recorded there.
    ///
    /// Builds with checks also find a concurrent second free. In other builds a free is no
    /// read-modify-write: the entry belongs to the object's owner.
    #[inline]
    pub(in crate::heap) fn cache(&self, address: usize, run: LargeRun) -> bool {
        self.change(address, run.live(), run.cached())
    }

    /// Marks the cached run at `address`, in this leaf, as a large object. Returns false if `run`
    /// is not recorded as cached there.
    #[inline]
    pub(in crate::heap) fn uncache(&self, address: usize, run: LargeRun) -> bool {
        self.change(address, run.cached(), run.live())
    }

    #[inline]
    fn change(&self, address: usize, from: u16, to: u16) -> bool {
        let entry = self.entry(address);
        // Relaxed: see `Runs::at`.
        if CHECKED {
            return entry.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        }
        let found = entry.load(Ordering::Relaxed) == from;
        if found {
            entry.store(to, Ordering::Relaxed);
        }
        found
    }
}

/// The record of one heap's runs.
pub(in crate::heap) struct Runs {
    /// Null, or a table that lives until the heap is dropped.
    root: [AtomicPtr<u8>; ROOT_ENTRIES],
    /// The number of tables; orders nothing.
    tables: AtomicU64,
}

impl Runs {
    #[cfg(not(loom))]
    pub(in crate::heap) const fn new() -> Runs {
        Runs { root: [const { AtomicPtr::new(ptr::null_mut()) }; ROOT_ENTRIES], tables: AtomicU64::new(0) }
    }

    #[cfg(loom)]
    pub(in crate::heap) fn new() -> Runs {
        Runs { root: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())), tables: AtomicU64::new(0) }
    }

    /// Returns the bytes of the record's tables.
    pub(in crate::heap) fn bytes(&self) -> u64 {
        self.tables.load(Ordering::Relaxed) * Order::FRAME.bytes()
    }

    /// Returns the run that starts at `address`.
    pub(in crate::heap) fn at(&self, address: usize) -> Option<Run> {
        if !is_page(address) {
            return None;
        }
        // Relaxed: an owner received the object from its allocation, which had recorded the run.
        // For any other caller either result is valid.
        Run::decode(self.leaf(address)?.entry(address).load(Ordering::Relaxed))
    }

    /// Returns the leaf with the entry of `address`, if it exists.
    #[inline(never)]
    pub(in crate::heap) fn leaf(&self, address: usize) -> Option<&Leaf> {
        let mut place = &self.root[root_index(address)];
        for shift in INNER_SHIFT {
            // SAFETY: the entries of the root and of all levels but the last lead to inner tables.
            place = unsafe { &existing::<Inner>(place)?.children[inner_index(address, shift)] };
        }
        // SAFETY: the entries of the last level lead to leaves.
        unsafe { existing::<Leaf>(place) }
    }

    /// Changes the length of the large object at `address`. Returns false if `run` is not recorded
    /// there. Of several concurrent callers exactly one succeeds.
    pub(in crate::heap) fn resize(&self, address: usize, run: LargeRun, to: RunLength) -> bool {
        let resized = LargeRun { length: to, ..run };
        self.leaf(address).is_some_and(|leaf| leaf.change(address, run.live(), resized.live()))
    }

    /// Returns the class of the slab around `address`, if any.
    #[inline]
    pub(in crate::heap) fn slab_around(&self, address: usize) -> Option<SizeClass> {
        let leaf = self.leaf(address)?;
        // A slab is aligned to its own size, and lies in one leaf. Searching downwards from the
        // address, the first recorded page is the slab's or proves that there is no slab.
        for order in 0..=MAX_SLAB_ORDER {
            let page = leaf_index(address) & !((1 << order) - 1);
            // Relaxed: as in `at`.
            match Run::decode(leaf.entries[page].load(Ordering::Relaxed)) {
                None => {}
                Some(Run::Slab(class)) if SlabShape::ALL[class.index()].order.get() >= order => {
                    return Some(class);
                }
                Some(_) => return None,
            }
        }
        None
    }

    /// Calls `each` with the address of each recorded large object, until it fails.
    #[cfg(feature = "leak-tracking")]
    pub(in crate::heap) fn each_large<E>(
        &self,
        mut each: impl FnMut(usize, LargeRun) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, place) in self.root.iter().enumerate() {
            // Further bits repeat the sign.
            let unused = usize::BITS - ROOT_SHIFT - ROOT_ENTRIES.trailing_zeros();
            let base = ((index << ROOT_SHIFT << unused) as isize >> unused) as usize;
            // SAFETY: below the root there are three levels of inner tables.
            unsafe { each_large_below(place, base, &INNER_SHIFT, &mut each) }?;
        }
        Ok(())
    }

    /// Removes `run` from the record. Returns false if it was not recorded at `address`. Of several
    /// concurrent callers exactly one succeeds.
    pub(in crate::heap) fn strike(&self, address: usize, run: Run) -> bool {
        // Relaxed: the exchange selects one caller, and orders nothing.
        is_page(address)
            && self.leaf(address).is_some_and(|leaf| {
                let (entry, orders) = (leaf.entry(address), Ordering::Relaxed);
                entry.compare_exchange(run.encode(), NOTHING, orders, orders).is_ok()
            })
    }
}

/// Returns true if `address` is the first of a page.
#[inline]
pub(in crate::heap) const fn is_page(address: usize) -> bool {
    address & ((1 << PAGE_BITS) - 1) == 0
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

/// Calls `each` for [`Runs::each_large`] with the addresses from `base` on, covered by the table at
/// `place`.
///
/// # Safety
///
/// At `place` begin inner tables with these shifts, and leaves below, which live as long as the
/// place.
#[cfg(feature = "leak-tracking")]
unsafe fn each_large_below<E>(
    place: &AtomicPtr<u8>,
    base: usize,
    shifts: &[u32],
    each: &mut impl FnMut(usize, LargeRun) -> Result<(), E>,
) -> Result<(), E> {
    if let Some((&shift, below)) = shifts.split_first() {
        // SAFETY: the caller's promise.
        let Some(inner) = (unsafe { existing::<Inner>(place) }) else { return Ok(()) };
        for (index, child) in inner.children.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { each_large_below(child, base | index << shift, below, each) }?;
        }
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let Some(leaf) = (unsafe { existing::<Leaf>(place) }) else { return Ok(()) };
    for (index, entry) in leaf.entries.iter().enumerate() {
        // Relaxed: see `Runs::at`.
        if let Some(Run::Large(run)) = Run::decode(entry.load(Ordering::Relaxed)) {
            each(base | index << PAGE_BITS, run)?;
        }
    }
    Ok(())
}

/// Returns the table at `place`, if it exists.
///
/// # Safety
///
/// `place` is null, or leads to a `T` that lives as long as the place.
unsafe fn existing<T>(place: &AtomicPtr<u8>) -> Option<&T> {
    // Acquire pairs with the Release in `table`: a context that sees the address sees the empty
    // table. SAFETY: the caller's promise.
    unsafe { place.load(Ordering::Acquire).cast::<T>().as_ref() }
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Records that `run` starts at `address`, in tables near `node`.
    pub(in crate::heap) fn record(
        &self,
        pin: &CpuPin,
        node: NodeId,
        address: usize,
        run: Run,
    ) -> Result<(), AllocError> {
        if cfg!(loom) {
            // Loom's models leave the record out: its tables have thousands of atomics, all zeroes at first.
            return Ok(());
        }
        let mut place = &self.runs.root[root_index(address)];
        for shift in INNER_SHIFT {
            // SAFETY: the entries of the root and of all levels but the last lead to inner tables.
            let inner = unsafe { self.table::<Inner>(pin, node, place) }?;
            place = &inner.children[inner_index(address, shift)];
        }
        // SAFETY: the entries of the last level lead to leaves.
        let leaf = unsafe { self.table::<Leaf>(pin, node, place) }?;
        // Relaxed: see `Runs::at`.
        leaf.entry(address).store(run.encode(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns the table at `place`, creating it if it does not exist.
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
        // SAFETY: the context owns the page. Zeroes are null pointers, or `NOTHING` entries.
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
                // SAFETY: the page was never published.
                unsafe { self.source.free(pin, page, Order::FRAME) };
                first
            }
        };
        // SAFETY: the address is not null: it is the page's, or that of the existing table.
        Ok(unsafe { &*table.cast::<T>() })
    }

    /// Returns the tables' pages to the source.
    ///
    /// # Safety
    ///
    /// The heap has no other users.
    pub(in crate::heap) unsafe fn free_tables(&self, pin: &CpuPin) {
        for place in &self.runs.root {
            // SAFETY: the caller's promise; below the root there are three levels of inner tables.
            unsafe { self.free_table(pin, place, INNER_SHIFT.len()) };
        }
    }

    /// Returns the pages of the tables at `place` to the source.
    ///
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
        // SAFETY: the page came from the source with the order, and has no users.
        unsafe { self.source.free(pin, page, Order::FRAME) };
    }
}
