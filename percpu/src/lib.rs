//! The needs of every CPU of an SMP kernel: dense CPU ids and sets, the proof of
//! being pinned to a CPU, CPU-local cells, and above them magazines, depots and a slab heap.
//!
//! The crate stands alone: a kernel with use for only the heap, or only CPU-local cells, needs
//! nothing else of topomem.
//!
//! # The heap
//!
//! [`Heap`] serves objects of 8 bytes to 16 KiB from slabs on the memory of the CPU's node, with
//! magazines per CPU in front: a hit takes no lock and no atomic read-modify-write. Larger
//! objects are runs of pages. Objects freed by another node's CPU go home; an emptied slab
//! returns the slab's pages. When memory is short, [`Heap::reclaim`] returns what is cached, and each CPU
//! calls [`Heap::run_pending_work`] now and then.
//!
//! It may be used in every context, NMI handlers included, with nothing masked, and from the
//! boot CPU's first instruction in Rust on: no use waits for another without bound. Without
//! memory it answers with an error; what was live stays so.
//!
//! A kernel implements two traits, and calls [`Heap::cpu_online`] on each CPU:
//!
//! ```
//! use std::alloc::Layout;
//! use std::ptr::NonNull;
//! use topomem_percpu::{CpuId, CpuPin, Heap, NodeId, Order, OutOfMemory, PageSource, PhysAddr, Platform};
//!
//! /// Which CPU runs, and where RAM is mapped. This one has one CPU.
//! struct Kernel;
//!
//! // SAFETY: there is one CPU, and nothing preempts.
//! unsafe impl Platform for Kernel {
//!     fn current_cpu(&self) -> CpuId {
//!         CpuId::BOOT
//!     }
//!     fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
//!         NonNull::new((0xffff_8000_0000_0000 + addr.as_u64()) as *mut u8).unwrap()
//!     }
//! }
//!
//! /// Where pages come from: here the host's allocator, in a kernel the frame allocator.
//! struct Pages;
//!
//! fn layout(order: Order) -> Layout {
//!     Layout::from_size_align(order.bytes() as usize, order.bytes() as usize).unwrap()
//! }
//!
//! // SAFETY: the host's allocator keeps runs apart, aligned as asked.
//! unsafe impl PageSource for Pages {
//!     fn allocate(&self, _: &CpuPin, _: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
//!         NonNull::new(unsafe { std::alloc::alloc(layout(order)) }).ok_or(OutOfMemory)
//!     }
//!     unsafe fn free(&self, _: &CpuPin, run: NonNull<u8>, order: Order) {
//!         unsafe { std::alloc::dealloc(run.as_ptr(), layout(order)) }
//!     }
//!     fn node_of_cpu(&self, _: CpuId) -> NodeId {
//!         NodeId::ZERO
//!     }
//! }
//!
//! // In a kernel also `#[global_allocator]`.
//! static HEAP: Heap<Kernel, Pages> = Heap::new(Kernel, Pages);
//!
//! HEAP.cpu_online(&Kernel.pin())?;
//! let wanted = Layout::new::<[u64; 8]>();
//! let memory = HEAP.try_alloc(wanted)?;
//! // SAFETY: it is ours, and large enough.
//! unsafe { memory.cast::<[u64; 8]>().write([7; 8]) };
//! // SAFETY: allocated above with the layout, and not used any more.
//! unsafe { HEAP.free(memory, wanted)? };
//! assert_eq!(HEAP.cpu_stats(CpuId::BOOT).unwrap().hits, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Freeing twice, or what was never allocated, is detected in builds with debug assertions or the
//! `hardened` feature, and in every build for large objects: [`Heap::free`] answers
//! [`InvalidFree`], and if nobody reads an answer (as the global allocator)
//! [`PageSource::refused`] is told.
//!
//! With the features `poison`, `red-zones`, `quarantine`, `zero-on-free` and `leak-tracking`, a heap can be
//! made that also finds writes after a free, writes beside an object, frees with another layout and leaks:
//! `Heap::with_hardening`.
#![no_std]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(test)]
extern crate self as topomem_percpu;
#[cfg(test)]
extern crate std;

/// Keeps the README's code compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod cpu;
mod depot;
mod heap;
mod magazine;
mod node;
mod order;
mod page_source;
mod phys;
mod platform;
mod run_length;
mod slab;
pub mod sync;
mod try_lock;

pub use cpu::local::{CpuLocal, Slot, Unavailable};
pub use cpu::paged_table::PagedCpuTable;
pub use cpu::pointers::CpuPage;
pub use cpu::set::{AtomicCpuSet, CpuSet};
pub use cpu::table::CpuTable;
pub use cpu::{CpuId, MAX_CPUS};
#[cfg(feature = "leak-tracking")]
pub use heap::LiveObjects;
pub use heap::handles::{
    AllocOnError, Arena, Checkpoint, HeapBox, InHeap, NoRoom, OnNode, Owner, Pool, PoolBox, StaleCheckpoint,
    UnknownNode,
};
pub use heap::{
    AllocError, ClassStats, Corruption, CpuHeapStats, Heap, HeapStats, InvalidFree, LargeStats,
    NodeClassStats, Partial, ReallocError, Slabinfo,
};
#[cfg(feature = "hardening")]
pub use heap::{Caller, Finding, Hardening, Measure, Origin, QUARANTINE_BYTES, Report, Site};
pub use node::{MAX_NODES, NodeId};
pub use order::Order;
pub use page_source::early::{EarlyArea, EarlyPages};
pub use page_source::{NotInPlace, OutOfMemory, PageSource};
pub use phys::{NotFrameAligned, PhysAddr, PhysFrame};
pub use platform::{CpuPin, PinGuard, Platform, Saved};
pub use run_length::RunLength;
pub use slab::{CLASS_COUNT, MAX_CLASS_SIZE, SizeClass};
