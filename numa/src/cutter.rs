//! Memory of the kernel's, cut into tables.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// Memory that is cut into tables.
pub(crate) struct Cutter {
    next: NonNull<u8>,
    left: usize,
}

impl Cutter {
    pub(crate) fn new(memory: &'static mut [MaybeUninit<u64>]) -> Cutter {
        Cutter { left: size_of_val::<[_]>(memory), next: NonNull::from(memory).cast() }
    }

    /// Cuts off a table of `count` values equal to `value`; without room, an empty one.
    pub(crate) fn table<T: Copy>(&mut self, count: usize, value: T) -> &'static mut [T] {
        let skipped = self.next.as_ptr().align_offset(align_of::<T>());
        let bytes = count * size_of::<T>();
        let Some(left) = self.left.checked_sub(skipped.saturating_add(bytes)) else { return &mut [] };
        // SAFETY: so many bytes are left.
        let first = unsafe { self.next.add(skipped) }.cast::<T>();
        for index in 0..count {
            // SAFETY: the memory is ours for good, aligned, and has room for `count` values.
            unsafe { first.add(index).write(value) };
        }
        // SAFETY: as above.
        self.next = unsafe { first.add(count) }.cast();
        self.left = left;
        // SAFETY: all values were just written, and the memory is cut off once.
        unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), count) }
    }
}
