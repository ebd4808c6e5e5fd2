//! The simulated machine as topomem's traits see it.

use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;
use std::thread;

use topomem_percpu::{CpuId, CpuSet, InvalidFree, PhysAddr, PhysFrame, Platform};
use topomem_shootdown::{
    Asid, PageRange, PageSize, RootLoad, SwitchFlushed, Ticks, Tlb, TlbFeatures, Unresponsive, VirtAddr,
};

use crate::Machine;
use crate::page_table::{PagingFeatures, X64};

use super::cpu::role;
use super::mmu::broadcast::Removal;
use super::{Sim, Vector, not_a_cpu};

/// How long a waiter waits before it reports a CPU, in nanoseconds: the host may be busy.
pub(super) const UNRESPONSIVE_TIMEOUT: u64 = 5_000_000_000;

// SAFETY: the walk reads four-level x86-64 tables, from the root loaded here; the load flushes
// what is not global, as a CR3 write without PCID does, even if it is the same root. The arena
// maps addresses both ways.
unsafe impl Machine for &'static Sim {
    type Format = X64;

    fn paging(&self) -> PagingFeatures {
        self.blueprint().paging
    }

    fn load_root(&self, root: PhysFrame) -> SwitchFlushed {
        self.load_tagged_root(root, RootLoad::Flush(Asid::KERNEL))
    }

    fn load_tagged_root(&self, root: PhysFrame, load: RootLoad) -> SwitchFlushed {
        self.state(|state| {
            state.root = Some(root.start_address());
            state.tlb.load_root(load);
        });
        SwitchFlushed::Yes
    }

    /// # Panics
    ///
    /// With the facts, unless [`Sim::on_heap_misuse`] was set.
    fn on_heap_misuse(&self, refused: InvalidFree) {
        match self.on_heap_misuse.get() {
            Some(tell) => tell(refused),
            None => panic!("{refused}"),
        }
    }

    /// # Panics
    ///
    /// With the facts, unless [`Sim::on_heap_report`] was set.
    #[cfg(feature = "hardening")]
    fn on_heap_report(&self, report: &topomem_percpu::Report) {
        match self.on_heap_report.get() {
            Some(tell) => tell(report),
            None => panic!("{report}"),
        }
    }
}

// SAFETY: a thread's CPU is set for the whole of `Sim::on`, one thread at a time by taking the
// CPU's state, and its handlers run nested on it; the arena maps distinct bytes to distinct
// addresses and lives as long as the platform.
unsafe impl Platform for Sim {
    fn current_cpu(&self) -> CpuId {
        match role() {
            Some(role) if role.machine == ptr::from_ref(self).addr() => role.cpu,
            _ => not_a_cpu(),
        }
    }

    /// # Panics
    ///
    /// Where the machine has no RAM at `addr`.
    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        let Some(place) = self.arena.at(addr) else { panic!("there is no RAM at {addr:?}") };
        place
    }

    /// # Panics
    ///
    /// Where `address` is not in the machine's RAM.
    fn virt_to_phys(&self, address: NonNull<u8>) -> PhysAddr {
        let Some(physical) = self.arena.address_of(address) else { panic!("{address:p} is not RAM") };
        physical
    }

    fn relax(&self) {
        self.take_interrupts();
        if self.state(|state| state.masked > 0) {
            self.call(&self.on_relax);
        }
        // The CPU that is waited for may need this host CPU.
        thread::yield_now();
    }
}

// SAFETY: the flushes act on the calling CPU's own caches at once, broadcasts on all CPUs' at
// their next access once they are waited for, and a walk reads the arena with acquire loads after the interrupt's SeqCst exchange; `send` posts with SeqCst, which the
// target's next poll point takes with SeqCst; handlers only nest.
unsafe impl Tlb for Sim {
    fn features(&self) -> TlbFeatures {
        self.blueprint().tlb
    }

    fn flush_page(&self, page: VirtAddr, _: PageSize) {
        self.state(|state| state.tlb.flush_page(page.as_u64()));
    }

    fn flush_non_global(&self) {
        self.state(|state| state.tlb.flush_non_global());
    }

    fn flush_all(&self) {
        self.state(|state| state.tlb.flush_all());
    }

    fn flush_page_of(&self, asid: Asid, page: VirtAddr, _: PageSize) {
        self.state(|state| state.tlb.flush_page_of(asid.get(), page.as_u64()));
    }

    /// # Panics
    ///
    /// Where the range is longer than the machine's instruction takes.
    fn broadcast_pages(&self, range: PageRange) {
        let limit = self.features().broadcast_pages().map_or(0, |pages| u64::from(pages.get()));
        assert!(range.pages() <= limit, "one instruction removes {limit} pages, not {}", range.pages());
        self.broadcast(self.current_cpu(), Removal::Pages(range));
    }

    fn broadcast_all(&self) {
        self.broadcast(self.current_cpu(), Removal::Everything);
    }

    fn broadcast_sync(&self) {
        self.settle_broadcasts(self.current_cpu());
    }

    fn send_ipi(&self, to: &CpuSet) {
        self.send(to, Vector::Shootdown);
    }

    /// Nanoseconds since the machine was switched on.
    fn now(&self) -> Ticks {
        Ticks(u64::try_from(self.uptime().as_nanos()).unwrap_or(u64::MAX))
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(self.unresponsive_timeout.load(Ordering::Relaxed))
    }

    fn on_unresponsive(&self, report: Unresponsive) {
        if let Some(tell) = self.on_unresponsive.get() {
            tell(report);
        }
    }
}
