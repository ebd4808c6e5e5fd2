//! topomem: an async, per-CPU, NUMA-aware memory service for SMP kernels.
//!
//! A kernel supplies one zero-sized type that implements [`Platform`], [`Tlb`] and [`Machine`]:
//! which CPU runs, the direct map, how to flush and interrupt, how to load a page table. It gets
//! NUMA topology from firmware's tables, a frame allocator and a slab heap with per-CPU magazines,
//! page tables that lock by subtree, address spaces, and a lock-free TLB shootdown. Every change
//! of a page table returns a ticket ([`Unmapping`]) that can be awaited, blocked on or left to the
//! service task, and that owns the frames until no CPU can reach them.
//!
//! # Wiring
//!
//! ```no_run
//! use core::ptr::NonNull;
//! use topomem::*;
//! use x86_64::{PhysAddr, structures::paging::PhysFrame};
//! # mod arch { // What the kernel has: registers, interrupt controller, clock.
//! #     pub fn cpu_number() -> usize { 0 }
//! #     pub fn tsc() -> u64 { 0 }
//! #     pub fn send_fixed_ipi(_: u8, _: topomem::CpuId) {}
//! #     pub fn invlpg(_: u64) {}
//! #     pub fn reload_cr3() {}
//! #     pub fn toggle_cr4_pge() {}
//! #     pub fn write_cr3(_: u64) {}
//! #     pub const APIC_ID: u32 = 0;
//! # }
//! # const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
//! # const SHOOTDOWN_VECTOR: u8 = 0xf0;
//!
//! #[derive(Clone, Copy)]
//! struct Kernel;
//!
//! // SAFETY: threads are not preempted, CPUs are numbered densely, and all RAM is mapped.
//! unsafe impl Platform for Kernel {
//!     fn current_cpu(&self) -> CpuId {
//!         CpuId::new(arch::cpu_number()).unwrap_or(CpuId::BOOT)
//!     }
//!     fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
//!         let place = (addr.as_u64() + DIRECT_MAP) as *mut u8;
//!         NonNull::new(place).unwrap_or(NonNull::dangling())
//!     }
//!     fn relax(&self) {
//!         SERVICE.poll_shootdown(&self.pin());
//!         core::hint::spin_loop();
//!     }
//! }
//!
//! // SAFETY: the instructions do what the trait says; the handler below answers the interrupt.
//! unsafe impl Tlb for Kernel {
//!     fn flush_page(&self, page: VirtAddr, _: PageSize) {
//!         arch::invlpg(page.as_u64());
//!     }
//!     fn flush_non_global(&self) {
//!         arch::reload_cr3();
//!     }
//!     fn flush_all(&self) {
//!         arch::toggle_cr4_pge();
//!     }
//!     fn send_ipi(&self, to: &CpuSet) {
//!         to.iter().for_each(|cpu| arch::send_fixed_ipi(SHOOTDOWN_VECTOR, cpu));
//!     }
//!     fn now(&self) -> Ticks {
//!         Ticks(arch::tsc())
//!     }
//!     fn patience(&self) -> Ticks {
//!         Ticks(10_000_000_000)
//!     }
//! }
//!
//! // SAFETY: a CR3 write without PCID flushes what is not global.
//! unsafe impl Machine for Kernel {
//!     type Format = X64;
//!     fn virt_to_phys(&self, address: NonNull<u8>) -> PhysAddr {
//!         PhysAddr::new(address.addr().get() as u64 - DIRECT_MAP)
//!     }
//!     fn load_root(&self, root: PhysFrame) -> SwitchFlushed {
//!         arch::write_cr3(root.start_address().as_u64());
//!         SwitchFlushed::Yes
//!     }
//! }
//!
//! static SERVICE: MemoryService<Kernel> = MemoryService::new(Kernel);
//! // In a kernel: #[global_allocator]
//! static HEAP: KernelHeap<Kernel> = KernelHeap::new(Kernel, &SERVICE);
//!
//! fn boot(
//!     tables: &FirmwareTables<'_>, // `numa::find_tables`, feature "acpi"
//!     map: &mut MemoryMap,         // usable RAM, less what the kernel occupies
//!     boot_root: PhysFrame,        // image and direct map
//! ) -> Result<(), Box<dyn core::error::Error>> {
//!     let pin = Kernel.pin();
//!     let machine = SERVICE.boot()?.discover(tables, ApicId(arch::APIC_ID), &mut |_| {});
//!     let mut ground = BootAllocator::new(map, machine.topology());
//!     let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::default() };
//!     let frames = machine.frames(&pin, &mut ground, &config)?;
//!     let window = PageRange::new(VirtAddr::new(0xffff_c000_0000_0000)?, 512, PageSize::Size1GiB)?;
//!     let layout = KernelLayout { window, inherit: Some(boot_root) };
//!     // SAFETY: the boot tables stay as they are, and the window is the service's.
//!     unsafe { frames.heap(&pin, &HEAP)?.kernel_space(&pin, &layout)? };
//!     Ok(()) // Each further CPU calls `SERVICE.cpu_online`; each runs `SERVICE.task`.
//! }
//!
//! fn shootdown_interrupt() {
//!     let _ = SERVICE.on_shootdown_ipi(&Kernel.pin()); // `WakersDue`: schedule `tend`
//! }
//!
//! async fn use_it() -> Result<(), Box<dyn core::error::Error>> {
//!     let (space, page) = {
//!         let pin = Kernel.pin();
//!         let space = SERVICE.create_space(&pin)?;
//!         let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
//!         space.map(&pin, page, FrameRequest::frame().zeroed(), Protection::USER_DATA)?;
//!         (space, page)
//!     };
//!     let unmapping = space.unmap(&Kernel.pin(), page)?;
//!     unmapping.await; // every CPU has forgotten the page, and its frame is free
//!     Ok(())
//! }
//! # fn main() {}
//! ```
#![no_std]

#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod address_space;
mod heap;
mod machine;
pub mod page_table;
mod retire;
mod service;
#[cfg(feature = "sim")]
pub mod sim;
mod spin_lock;

pub use topomem_numa as numa;
pub use topomem_numa::frames;
pub use topomem_percpu as percpu;
pub use topomem_shootdown as shootdown;

pub use address_space::{
    AddressSpace, Batch, MapError, ProtectError, RemapError, Translation, UnmapError, Unmapped, Unmapping,
};
pub use heap::{FrameSource, KernelHeap};
pub use machine::Machine;
pub use page_table::{Access, Cache, Privilege, Protection, WriteExecute, X64};
pub use service::{
    Boot, BootError, CpuStats, Discovered, KernelLayout, MemoryService, OfflineError, OnlineError,
    ServiceTask, Tended, WithFrames, WithHeap,
};
pub use topomem_numa::frames::{FrameRequest, Frames, FramesConfig, PerFrameTable, Policy};
pub use topomem_numa::{ApicId, BootAllocator, FirmwareTables, MemoryMap, MemoryRange, Topology};
pub use topomem_percpu::{CpuId, CpuPin, CpuSet, NodeId, Order, PinGuard, Platform};
pub use topomem_shootdown::{
    Domain, Lazy, PageRange, PageSize, SwitchFlushed, Ticks, Tlb, VirtAddr, WakersDue,
};
