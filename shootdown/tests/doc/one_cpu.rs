// The hooks of a machine with a single CPU and no TLB, for the examples in the documentation.

use core::ptr::NonNull;
use topomem_percpu::{CpuId, CpuSet, PhysAddr, Platform};
use topomem_shootdown::{PageSize, Ticks, Tlb, VirtAddr};

pub struct OneCpu;

// SAFETY: the machine has a single CPU, and hands out no memory.
unsafe impl Platform for OneCpu {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }
    fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
}

// SAFETY: the machine has no TLB to flush and no second CPU to interrupt.
unsafe impl Tlb for OneCpu {
    fn flush_page(&self, _page: VirtAddr, _size: PageSize) {}
    fn flush_non_global(&self) {}
    fn flush_all(&self) {}
    fn send_ipi(&self, _to: &CpuSet) {}
    fn now(&self) -> Ticks {
        Ticks(0)
    }
    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(1 << 32)
    }
}
