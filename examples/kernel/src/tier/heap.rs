//! The heap alone, over the kernel's own pages.

use core::ptr::NonNull;

use topomem_percpu::{
    CpuId, CpuPin, Heap, InvalidFree, NodeId, Order, OutOfMemory, PageSource, Platform, Saved,
};
use x86_64::instructions::interrupts;

use crate::arch::cpu;
use crate::machine::{Machine, at};
use crate::{must, pages};

pub(crate) struct Kernel;

// SAFETY: CPUs have dense numbers of their own; with interrupts off nothing comes between.
unsafe impl Platform for Kernel {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(cpu::index()).unwrap_or(CpuId::BOOT)
    }
    fn disable_migration(&self) -> Saved {
        let were_on = interrupts::are_enabled();
        interrupts::disable();
        Saved(were_on.into())
    }
    fn enable_migration(&self, were_on: Saved) {
        if were_on != Saved(false.into()) {
            interrupts::enable();
        }
    }
}

pub(crate) struct Pages;

// SAFETY: the pages are RAM, mapped to itself, and the caller's alone.
unsafe impl PageSource for Pages {
    fn allocate(&self, _: &CpuPin, _: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        pages::allocate(order.frames()).and_then(|run| NonNull::new(at(run))).ok_or(OutOfMemory)
    }
    unsafe fn free(&self, _: &CpuPin, run: NonNull<u8>, order: Order) {
        pages::free(run.as_ptr().expose_provenance() as u64, order.frames());
    }
    fn node_of_cpu(&self, _: CpuId) -> NodeId {
        NodeId::ZERO
    }
    fn refused(&self, invalid: InvalidFree) {
        panic!("{invalid}");
    }
}

#[global_allocator]
pub(crate) static HEAP: Heap<Kernel, Pages> = Heap::new(Kernel, Pages);

pub(crate) fn boot(machine: &Machine) {
    pages::init(machine);
}

pub(crate) fn cpu_online() {
    must("heap", HEAP.cpu_online(&Kernel.pin()));
}

pub(crate) fn cpu_offline() {
    must("heap", HEAP.cpu_offline(&Kernel.pin()).map_err(|_| "busy"));
}

pub(crate) fn interrupt() {}
