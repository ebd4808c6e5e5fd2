//! Peers that a kernel would put a lock around, over an arena.

use std::alloc::{GlobalAlloc, Layout};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use spin::mutex::SpinMutex;
use talc::TalcLock;
use talc::source::Claim;

use super::arena::{self, Arena};
use super::subject::Subject;

/// A peer with the arena that it manages.
pub(super) struct Over<H> {
    heap: H,
    _arena: Arena,
}

// SAFETY: the heap's own promises.
unsafe impl<H: GlobalAlloc> GlobalAlloc for Over<H> {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.heap.alloc(layout) }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.heap.dealloc(memory, layout) };
    }

    #[inline(always)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.heap.alloc_zeroed(layout) }
    }

    #[inline(always)]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.heap.realloc(memory, layout, new_size) }
    }
}

/// `talc` in a spin lock.
pub(super) type Talc = Over<TalcLock<SpinMutex<()>, Claim>>;

impl Subject for Talc {
    const NAME: &'static str = "talc";

    fn new(_cpus: usize) -> Talc {
        let arena = Arena::new();
        // SAFETY: the arena is the heap's alone.
        let claim = unsafe { Claim::new(arena.base().as_ptr(), arena::BYTES) };
        Over { heap: TalcLock::new(claim), _arena: arena }
    }

    fn held(&self) -> Option<u64> {
        None
    }
}

/// `rlsf`'s two levels of segregated lists, in a spin lock, for blocks up to the arena's size.
pub(super) struct Tlsf(SpinMutex<rlsf::Tlsf<'static, u32, u32, 24, 32>>);

// SAFETY: the allocator's own promises.
unsafe impl GlobalAlloc for Tlsf {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if let Some(memory) = NonNull::new(memory) {
            // SAFETY: the caller's promise.
            unsafe { self.0.lock().deallocate(memory, layout.align()) };
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(layout) = Layout::from_size_align(new_size, layout.align()) else { return ptr::null_mut() };
        let Some(memory) = NonNull::new(memory) else { return ptr::null_mut() };
        // SAFETY: the caller's promise.
        let moved = unsafe { self.0.lock().reallocate(memory, layout) };
        moved.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

impl Subject for Over<Tlsf> {
    const NAME: &'static str = "rlsf";

    fn new(_cpus: usize) -> Over<Tlsf> {
        let arena = Arena::new();
        let mut heap = rlsf::Tlsf::new();
        let base = arena.base().as_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the arena is the heap's alone, and goes with it.
        heap.insert_free_block(unsafe { std::slice::from_raw_parts_mut(base, arena::BYTES) });
        Over { heap: Tlsf(SpinMutex::new(heap)), _arena: arena }
    }

    fn held(&self) -> Option<u64> {
        None
    }
}

/// `linked_list_allocator`, first fit in a spin lock.
pub(super) type LinkedList = Over<linked_list_allocator::LockedHeap>;

impl Subject for LinkedList {
    const NAME: &'static str = "linked_list_allocator";

    fn new(_cpus: usize) -> LinkedList {
        let arena = Arena::new();
        // SAFETY: the arena is the heap's alone.
        let heap = unsafe { linked_list_allocator::LockedHeap::new(arena.base().as_ptr(), arena::BYTES) };
        Over { heap, _arena: arena }
    }

    fn held(&self) -> Option<u64> {
        None
    }
}

/// `buddy_system_allocator`'s heap, in a spin lock.
pub(super) type Buddy = Over<buddy_system_allocator::LockedHeap<33>>;

impl Subject for Buddy {
    const NAME: &'static str = "buddy_system_allocator";

    fn new(_cpus: usize) -> Buddy {
        let arena = Arena::new();
        let heap = buddy_system_allocator::LockedHeap::new();
        // SAFETY: the arena is the heap's alone.
        unsafe { heap.lock().init(arena.base().addr().get(), arena::BYTES) };
        Over { heap, _arena: arena }
    }

    fn held(&self) -> Option<u64> {
        None
    }
}
