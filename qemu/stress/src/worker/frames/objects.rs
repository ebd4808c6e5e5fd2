//! Heap objects: allocate, fill with a pattern, check it, free here or elsewhere.

use core::alloc::Layout;
use core::sync::atomic::Ordering;

use topomem::VirtAddr;
use topomem::percpu::SizeClass;

use crate::Text;
use crate::oracle::pattern;
use crate::shared::transfer::{HeldObject, Transfer};
use crate::worker::{HELD, Worker};
use crate::{Failure, Rig};

impl<R: Rig> Worker<'_, R> {
    pub(in crate::worker) fn objects_step(&mut self) {
        let full = self.objects.len() == HELD;
        if full || (!self.objects.is_empty() && self.random.one_in(2)) {
            let index = self.random.index(self.objects.len());
            let held = self.objects.swap_remove(index);
            let rest = if self.random.one_in(3) {
                self.send(Transfer::Object(held))
            } else {
                Err(Transfer::Object(held))
            };
            if let Err(Transfer::Object(held)) = rest {
                self.free_object(held);
            }
        } else {
            self.allocate_object();
        }
    }

    /// Uses every size class once, so that the heap's own books exist before frames are counted.
    pub(crate) fn warm_heap(&self) {
        let Some(heap) = self.run.rig.service().heap() else { return };
        for class in SizeClass::all() {
            let Ok(layout) = Layout::from_size_align(class.size(), 1) else { continue };
            let Ok(memory) = heap.heap().try_alloc(layout) else { continue };
            // SAFETY: it has just come from this heap with this layout.
            if let Err(error) = unsafe { heap.heap().free(memory, layout) } {
                self.refused("freeing a heap object", Text::display(&error));
            }
        }
    }

    /// Mostly small, some up to the largest class, few beyond.
    fn random_layout(&mut self) -> Layout {
        let largest = match self.random.below(100) {
            0..70 => 256,
            70..92 => 4096,
            92..99 => 16 << 10,
            _ => 64 << 10,
        };
        let size = self.random.below(largest) as usize + 1;
        let align = 1 << self.random.below(9);
        Layout::from_size_align(size, align).unwrap_or(Layout::new::<u64>())
    }

    fn allocate_object(&mut self) {
        let layout = self.random_layout();
        // Out of memory is an answer: frames may be short just now.
        let Some(heap) = self.run.rig.service().heap() else { return };
        let Ok(memory) = heap.heap().try_alloc(layout) else { return };
        self.run.counters(self.cpu).allocations.fetch_add(1, Ordering::Relaxed);
        let address = VirtAddr::from_ptr(memory.as_ptr());
        if !address.as_u64().is_multiple_of(layout.align() as u64) {
            let alignment = layout.align() as u32;
            self.run.fail(Failure::ObjectMisaligned { cpu: self.cpu, address, alignment });
            return;
        }
        let held = HeldObject { memory, layout, seed: self.random.draw() as u32 };
        for offset in 0..layout.size() {
            // SAFETY: the object is `layout.size()` bytes and ours alone.
            unsafe { held.memory.add(offset).write(pattern(held.seed, offset as u32)) };
        }
        self.objects.push(held);
    }

    /// Checks an object's pattern and frees it.
    pub(in crate::worker) fn free_object(&mut self, held: HeldObject) {
        let size = held.layout.size();
        let changed = (0..size).find_map(|offset| {
            // SAFETY: the object is `size` bytes, was filled when it was allocated, and is ours.
            let found = unsafe { held.memory.add(offset).read() };
            let expected = pattern(held.seed, offset as u32);
            if found == expected { None } else { Some((offset as u32, expected, found)) }
        });
        if let Some((offset, expected, found)) = changed {
            let address = VirtAddr::from_ptr(held.memory.as_ptr());
            let size = size as u32;
            self.run.fail(Failure::ObjectChanged { cpu: self.cpu, address, size, offset, expected, found });
        }
        let Some(heap) = self.run.rig.service().heap() else { return };
        // SAFETY: it came from this heap with this layout, and nobody else holds it.
        if let Err(error) = unsafe { heap.heap().free(held.memory, held.layout) } {
            self.refused("freeing a heap object", Text::display(&error));
        }
    }
}
