//! Objects held in reserve by a pool, for contexts in which an allocation must not fail.
//!
//! Two counters guard the slots. `spare` counts the unclaimed objects in slots, and `missing`
//! counts the unclaimed empty slots. Taking an object claims from `spare` first, and putting an
//! object back claims from `missing` first. So for each claim there is a slot that satisfies it,
//! and a search for the slot ends: the search passes a slot in vain only if another context was
//! faster there and has satisfied its own claim. Nothing is linked, so there is no ABA.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::hint;

/// A slot: null, or an object that belongs to the slot.
type Slot = AtomicPtr<u8>;

/// The header of a block of slots, which lie behind it.
#[repr(C)]
struct Block {
    /// The block that was added before.
    next: *mut Block,
    len: usize,
}

/// Bytes from a block to its first slot.
const SLOTS: usize = size_of::<Block>().next_multiple_of(align_of::<Slot>());

/// The memory of a block that is not in a reserve yet.
pub(super) struct NewBlock(NonNull<Block>);

/// Reserved objects of one layout.
pub(super) struct Reserve {
    /// The block added last. Blocks are only added.
    blocks: AtomicPtr<Block>,
    /// Objects in slots, less the claimed objects.
    spare: AtomicUsize,
    /// Empty slots, less the claimed slots.
    missing: AtomicUsize,
    /// Slots.
    total: AtomicUsize,
}

impl NewBlock {
    /// Returns the layout of a block of `len` slots, or `None` if no memory is that large.
    pub(super) fn layout(len: usize) -> Option<Layout> {
        let bytes = len.checked_mul(size_of::<Slot>())?.checked_add(SLOTS)?;
        Layout::from_size_align(bytes, align_of::<Block>().max(align_of::<Slot>())).ok()
    }

    /// Creates a block of `len` empty slots.
    ///
    /// # Safety
    ///
    /// The caller owns the memory, allocated for [`NewBlock::layout`] of `len`, and keeps it
    /// allocated for as long as the block is used.
    pub(super) unsafe fn new(memory: NonNull<u8>, len: usize) -> NewBlock {
        let block = NewBlock(memory.cast());
        // SAFETY: the caller's promise: the header and that many slots lie in the memory.
        unsafe {
            block.0.write(Block { next: ptr::null_mut(), len });
            let first = memory.add(SLOTS).cast::<Slot>();
            (0..len).for_each(|index| first.add(index).write(Slot::new(ptr::null_mut())));
        }
        block
    }

    /// Puts an object into slot `index`.
    pub(super) fn fill(&self, index: usize, object: NonNull<u8>) {
        // Relaxed: the Release in `Reserve::add` publishes the block.
        self.slots()[index].store(object.as_ptr(), Ordering::Relaxed);
    }

    /// Takes the objects out, one after another, and then the memory.
    pub(super) fn dissolve(self, mut object: impl FnMut(NonNull<u8>)) -> (NonNull<u8>, usize) {
        let slots = self.slots();
        // Relaxed: the block has no other user.
        slots.iter().filter_map(|slot| NonNull::new(slot.load(Ordering::Relaxed))).for_each(&mut object);
        (self.0.cast(), slots.len())
    }

    fn slots(&self) -> &[Slot] {
        // SAFETY: the block was made by `new`, and lives.
        unsafe { slots(self.0) }
    }
}

/// Returns the slots of a block.
///
/// # Safety
///
/// The block was made by [`NewBlock::new`], and lives for `'a`.
unsafe fn slots<'a>(block: NonNull<Block>) -> &'a [Slot] {
    // SAFETY: the caller's promise: the slots lie behind the header.
    unsafe {
        let first = block.cast::<u8>().add(SLOTS).cast();
        NonNull::slice_from_raw_parts(first, block.as_ref().len).as_ref()
    }
}

impl Reserve {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Reserve {
        Reserve {
            blocks: AtomicPtr::new(ptr::null_mut()),
            spare: AtomicUsize::new(0),
            missing: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
        }
    }

    #[cfg(loom)]
    pub(super) fn new() -> Reserve {
        Reserve {
            blocks: AtomicPtr::new(ptr::null_mut()),
            spare: AtomicUsize::new(0),
            missing: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
        }
    }

    /// Returns the number of objects added in total.
    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns the number of unclaimed objects.
    pub(super) fn spare(&self) -> usize {
        self.spare.load(Ordering::Relaxed)
    }

    /// Adds a block of full slots.
    pub(super) fn add(&self, block: NewBlock) {
        let (block, len) = (block.0, block.slots().len());
        let mut first = self.blocks.load(Ordering::Relaxed);
        loop {
            // SAFETY: the block is not published yet.
            unsafe { (*block.as_ptr()).next = first };
            // Release pairs with the Acquire in `find`: a context that sees the block sees its
            // slots.
            match self.blocks.compare_exchange_weak(
                first,
                block.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(seen) => first = seen,
            }
        }
        self.total.fetch_add(len, Ordering::Relaxed);
        // Release pairs with the Acquire in `claim`: a context that claims an object of this block
        // sees the block.
        self.spare.fetch_add(len, Ordering::Release);
    }

    /// Takes an object, if an unclaimed object is left.
    pub(super) fn take(&self) -> Option<NonNull<u8>> {
        if !claim(&self.spare) {
            return None;
        }
        let object = self.find(|slot| {
            // A load first: a swap would pull the line away from its other users.
            if slot.load(Ordering::Relaxed).is_null() {
                return None;
            }
            // Acquire pairs with the Release in `put`: makes the last uses of the object visible.
            NonNull::new(slot.swap(ptr::null_mut(), Ordering::Acquire))
        });
        // Release pairs with the Acquire in `claim`: a context that claims the empty slot sees it
        // empty.
        self.missing.fetch_add(1, Ordering::Release);
        Some(object)
    }

    /// Puts an object back, if the reserve is not full. Cost: a load if it is full.
    ///
    /// # Errors
    ///
    /// Returns the object if the reserve is full.
    #[inline]
    pub(super) fn put(&self, object: NonNull<u8>) -> Result<(), NonNull<u8>> {
        if self.missing.load(Ordering::Relaxed) == 0 { Err(object) } else { self.refill(object) }
    }

    #[cold]
    fn refill(&self, object: NonNull<u8>) -> Result<(), NonNull<u8>> {
        if !claim(&self.missing) {
            return Err(object);
        }
        self.find(|slot| {
            let empty = slot.load(Ordering::Relaxed).is_null();
            // Release pairs with the Acquire in `take`.
            let exchange = || {
                slot.compare_exchange(ptr::null_mut(), object.as_ptr(), Ordering::Release, Ordering::Relaxed)
            };
            (empty && exchange().is_ok()).then_some(())
        });
        // Release pairs with the Acquire in `claim`: a context that claims the object sees it.
        self.spare.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Searches the slots until `f` satisfies the claim. Each further pass means that other
    /// contexts satisfied their claims meanwhile: no context waits for another.
    fn find<R>(&self, mut f: impl FnMut(&Slot) -> Option<R>) -> R {
        loop {
            // Acquire pairs with the Release in `add`.
            let mut cursor = NonNull::new(self.blocks.load(Ordering::Acquire));
            while let Some(block) = cursor {
                // SAFETY: blocks live as long as the reserve; a header never changes after its
                // block was added.
                let (found, next) = unsafe { (slots(block).iter().find_map(&mut f), (*block.as_ptr()).next) };
                if let Some(found) = found {
                    return found;
                }
                cursor = NonNull::new(next);
            }
            hint::spin_loop();
        }
    }

    /// Removes a block with all its objects, from a reserve without other users.
    pub(super) fn remove(&mut self) -> Option<NewBlock> {
        // Relaxed: the reserve has no other user.
        let block = NonNull::new(self.blocks.load(Ordering::Relaxed))?;
        // SAFETY: the block is alive; from here on it is not part of the reserve.
        self.blocks.store(unsafe { block.as_ref() }.next, Ordering::Relaxed);
        Some(NewBlock(block))
    }
}

/// Decrements `counter`, unless it is zero. Returns true if it was decremented.
fn claim(counter: &AtomicUsize) -> bool {
    let mut count = counter.load(Ordering::Relaxed);
    while count > 0 {
        // Acquire pairs with the Release of every increment (`add`, `take`, `refill`). Every change
        // of the counter is a read-modify-write, so the context sees the slots of all of them.
        match counter.compare_exchange_weak(count, count - 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(seen) => count = seen,
        }
    }
    false
}

#[cfg(all(test, loom))]
mod model;
