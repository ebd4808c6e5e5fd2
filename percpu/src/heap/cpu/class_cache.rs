//! A CPU's magazines of a class.

use core::cell::Cell;
use core::mem;
use core::ptr::NonNull;

use crate::NodeId;
use crate::heap::stats::counters::bump;
use crate::magazine::Magazine;
use crate::slab::{self, Chain, SizeClass, Slab, SlabShape, SlabTag};
use crate::sync::atomic::{AtomicU64, Ordering};

/// The two magazines of a class, the facts checked by a free, and the counters: a cache line.
#[repr(align(64))]
pub(super) struct ClassCache {
    /// The first object of the loaded magazine, if any.
    loaded: Cell<Option<NonNull<u8>>>,
    /// The number of objects that still fit into the loaded magazine.
    room: Cell<usize>,
    /// Clears the bits of an address inside a slab.
    mask: usize,
    /// The header tag of the slabs with objects for these magazines: the class and the CPU's node.
    tag: SlabTag,
    /// The previous magazine if full; `None` if empty.
    previous: Cell<Option<Magazine>>,
    allocations: AtomicU64,
    frees: AtomicU64,
    class: SizeClass,
}

const _: () = assert!(cfg!(loom) || mem::size_of::<ClassCache>() == 64);

/// Tells the compiler of a rare path: the instructions are placed behind a hit's.
// `core::hint::cold_path` is younger than the oldest supported compiler.
#[cold]
#[inline]
const fn cold() {}

impl ClassCache {
    pub(super) fn new(index: usize, node: NodeId) -> ClassCache {
        let class = SizeClass::new(index).unwrap_or(SizeClass::LARGEST);
        ClassCache {
            loaded: Cell::new(None),
            room: Cell::new(class.rounds()),
            mask: SlabShape::ALL[class.index()].mask(),
            tag: SlabTag::new(class, node),
            previous: Cell::new(None),
            allocations: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            class,
        }
    }

    /// Takes an object from the loaded magazine, or, if the loaded magazine is empty, from the previous magazine, to be loaded then.
    #[inline]
    pub(super) fn pop(&self) -> Option<NonNull<u8>> {
        let object = match self.loaded.get() {
            Some(object) => object,
            None => {
                cold();
                let previous = self.previous.take()?;
                self.room.set(0);
                previous.into_first()
            }
        };
        // SAFETY: the magazine owns its objects, each linked to the next.
        let next = unsafe { slab::next(object) };
        slab::prefetch(next);
        self.loaded.set(next);
        self.room.set(self.room.get().wrapping_add(1));
        bump(&self.allocations);
        Some(object)
    }

    /// Puts an object into the loaded magazine, if the object is of the class and the node and
    /// there is room. A full magazine is set aside first, without a previous magazine.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, if it is an object of the class; the memory can be read as far
    /// back as a slab of the class reaches.
    #[inline]
    pub(super) unsafe fn push(&self, object: NonNull<u8>) -> bool {
        let mut top = self.loaded.get();
        // The slab of the magazine's top object is of the class and the node, and the header need not be read. The
        // case is common where objects are freed in the order of the addresses.
        let apart = (object.addr().get() ^ top.map_or(0, |top| top.addr().get())) & self.mask;
        // One comparison checks that the address is in a slab, of the class, of the node.
        // SAFETY: the caller's promise; the tag is checked first.
        if apart != 0 && unsafe { Slab::masked(object, self.mask) }.tag() != self.tag {
            return false;
        }
        // Decremented before the check: one instruction does both.
        let room = self.room.get();
        self.room.set(room.wrapping_sub(1));
        if room == 0 {
            cold();
            // An empty magazine has no room only while the CPU is offline.
            if top.is_none() || self.has_previous() {
                self.room.set(0);
                return false;
            }
            let former = self.set_aside();
            debug_assert!(former.is_none(), "no magazine was set aside");
            self.room.set(self.room.get() - 1);
            top = None;
        }
        // SAFETY: the object is of a slab, and owned.
        unsafe { slab::link(object, top) };
        self.loaded.set(Some(object));
        bump(&self.frees);
        true
    }

    /// Returns true if a full magazine is set aside.
    #[inline]
    fn has_previous(&self) -> bool {
        let previous = self.previous.take();
        let has = previous.is_some();
        self.previous.set(previous);
        has
    }

    /// Loads `magazine` in place of the empty loaded magazine.
    pub(super) fn load(&self, magazine: Magazine) {
        self.loaded.set(Some(magazine.into_first()));
        self.room.set(0);
    }

    /// Loads `objects`, at most a magazine of them, in place of the empty loaded magazine.
    pub(super) fn load_part(&self, objects: &Chain) {
        self.loaded.set(objects.head());
        self.room.set(self.class.rounds().saturating_sub(objects.len()));
    }

    /// Makes the full loaded magazine the previous magazine, and returns the former previous
    /// magazine.
    pub(super) fn set_aside(&self) -> Option<Magazine> {
        self.room.set(self.class.rounds());
        // SAFETY: the loaded magazine held that many objects, and no longer refers to them.
        let full = self.loaded.take().map(|first| unsafe { Magazine::new(first) });
        self.previous.replace(full)
    }

    /// Gives room to the empty magazine. Call when the CPU goes online.
    pub(super) fn open(&self) {
        self.room.set(self.class.rounds());
    }

    /// Leaves the empty magazine without room: no free is served. Call when the CPU goes
    /// offline.
    pub(super) fn close(&self) {
        self.room.set(0);
    }

    /// Counts a free of an object of another node.
    pub(super) fn count_free(&self) {
        bump(&self.frees);
    }

    /// Returns the number of allocations.
    pub(super) fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Returns the number of frees.
    pub(super) fn frees(&self) -> u64 {
        self.frees.load(Ordering::Relaxed)
    }

    /// Takes the objects of both magazines.
    pub(super) fn unload(&self) -> [Chain; 2] {
        let rounds = self.class.rounds();
        let held = rounds.saturating_sub(self.room.replace(rounds));
        // SAFETY: the loaded magazine held that many objects, and no longer refers to them; the
        // previous magazine is of the class.
        unsafe {
            let loaded = self.loaded.take().map(|first| Chain::of(first, held));
            let previous = self.previous.take().map(|full| full.into_chain(self.class));
            [loaded.unwrap_or_default(), previous.unwrap_or_default()]
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::alloc::{Layout, alloc, dealloc};
    use std::vec::Vec;

    use super::*;

    const PAGE: usize = crate::Order::FRAME.bytes() as usize;

    /// Pages side by side, each a slab.
    struct Pages<const COUNT: usize>(NonNull<u8>);

    impl<const COUNT: usize> Pages<COUNT> {
        fn layout() -> Layout {
            Layout::from_size_align(COUNT * PAGE, PAGE).unwrap()
        }

        fn new() -> Pages<COUNT> {
            // SAFETY: pages have bytes.
            Pages(NonNull::new(unsafe { alloc(Pages::<COUNT>::layout()) }).unwrap())
        }

        /// Makes a slab of a page. Returns its objects in the order of their addresses.
        fn slab(&self, page: usize, class: SizeClass, home: NodeId) -> Vec<NonNull<u8>> {
            assert!(page < COUNT && SlabShape::ALL[class.index()].order == crate::Order::FRAME);
            // SAFETY: the page is one of these, and nothing else is in it.
            let (_, mut objects) = unsafe { Slab::new_in(self.0.add(page * PAGE), class, home) };
            let mut objects: Vec<_> = core::iter::from_fn(|| objects.pop()).collect();
            objects.sort();
            objects
        }
    }

    impl<const COUNT: usize> Drop for Pages<COUNT> {
        fn drop(&mut self) {
            // SAFETY: allocated with the layout; no slab is used any more.
            unsafe { dealloc(self.0.as_ptr(), Pages::<COUNT>::layout()) };
        }
    }

    fn class(size: usize) -> SizeClass {
        SizeClass::of(Layout::from_size_align(size, 8).unwrap()).unwrap()
    }

    /// Whether the top object's slab is another one or the same, only objects of the class and the node are taken.
    #[test]
    fn objects_of_other_nodes_and_classes_are_refused() {
        let pages = Pages::<4>::new();
        let [near, far] = [0, 1].map(|node| NodeId::new(node).unwrap());
        let (class, other) = (class(64), class(128));
        let [first, second] = [0, 1].map(|page| pages.slab(page, class, near));
        let strange = [pages.slab(2, class, far), pages.slab(3, other, near)];
        let cache = ClassCache::new(class.index(), near);
        // SAFETY: each object is owned here, and is in a page.
        let push = |object: NonNull<u8>| unsafe { cache.push(object) };
        let refused = || strange.iter().flatten().all(|&object| !push(object));
        assert!(refused(), "with no object at the top");
        for (&one, &two) in first.iter().zip(&second).take(16) {
            assert!(push(one) && refused());
            assert!(push(two) && refused());
        }
        assert!(first[16..32].iter().all(|&object| push(object)), "of the top object's slab");
        let taken: Vec<_> = core::iter::from_fn(|| cache.pop()).collect();
        assert_eq!(taken.len(), 48);
        assert_eq!((cache.allocations(), cache.frees()), (48, 48));
    }

    /// A second magazine is filled behind the first, no third; both are emptied. A closed cache takes nothing.
    #[test]
    fn two_magazines_are_filled_and_emptied() {
        let class = class(992);
        let rounds = class.rounds();
        let pages = Pages::<16>::new();
        let cache = ClassCache::new(class.index(), NodeId::ZERO);
        let objects: Vec<_> = (0..16).flat_map(|page| pages.slab(page, class, NodeId::ZERO)).collect();
        assert!(objects.len() > 2 * rounds);
        // SAFETY: each object is owned here, and is in a page.
        let push = |object: NonNull<u8>| unsafe { cache.push(object) };
        for _ in 0..2 {
            assert_eq!(objects.iter().take_while(|&&object| push(object)).count(), 2 * rounds);
            assert!(!push(objects[2 * rounds]), "there is room once full");
            let mut taken: Vec<_> = core::iter::from_fn(|| cache.pop()).collect();
            taken.sort();
            assert_eq!(taken, objects[..2 * rounds]);
        }
        // At the edge between the two magazines.
        assert!(objects[..rounds].iter().all(|&object| push(object)));
        for _ in 0..3 {
            assert!(push(objects[rounds]));
            assert_eq!(cache.pop(), Some(objects[rounds]));
        }
        let held = cache.unload();
        assert_eq!(held.map(|chain| chain.len()), [0, rounds]);
        cache.close();
        assert!(!push(objects[0]) && !push(objects[1]) && cache.pop().is_none());
        cache.open();
        assert!(push(objects[0]));
        assert_eq!(cache.pop(), Some(objects[0]));
    }
}
