//! A lock-free, IPI-based TLB shootdown queue whose completion is a future.
//!
//! Every CPU caches translations; when one changes page tables, the others must drop what they
//! cached before the memory behind it is used for something else. This crate tells them, with
//! as few interrupts as it takes, and tells the one who changed the tables when that is done.
//!
//! # Protocol
//!
//! - A [`Domain`] (one per address space, one for the kernel) counts its invalidations in
//!   **generations**, keeps the last 32 in a bounded lock-free log, and knows which CPUs may
//!   hold its translations.
//! - **Record** ([`Shootdown::record`]): the page tables are changed; append to the log, with the lock
//!   of the changed entries still held, so that generations are ordered as the changes are.
//! - **Announce** ([`Shootdown::announce`]): full barrier; read the members; interrupt each that has
//!   no interrupt pending already. [`Shootdown::invalidate`] does both.
//! - **Handle** ([`Shootdown::on_ipi`]): clear the pending word; read the generation; replay
//!   the log from what was last published, or flush everything where the log doesn't know
//!   enough or the pages are too many; only then publish the generation.
//! - **Join** ([`Shootdown::activate`]): become a member; full barrier; read the generation;
//!   load the tables; publish. Sender and joiner each store, fence and load: one sees the other.
//! - **Complete**: a [`Ticket`] is complete when every CPU that it found has published its
//!   generation, has left the domain, is lazy in it or offline. Nothing counts acknowledgements.
//!
//! Where the TLB tags translations by address space, a CPU keeps those of spaces that it left and
//! compares generations when it returns; where the hardware broadcasts invalidations, changes of
//! single pages need no interrupt ([`TlbFeatures`]).
//!
//! No request is lost: the log's overrun, a slot not yet filled or torn is a full flush. A CPU
//! that doesn't answer keeps the ticket incomplete, so memory stays safe, and is reported.
//!
//! # Interrupt handlers
//!
//! An interrupt handler may interrupt any function of this crate on its CPU, and any closure that is
//! passed to one, at any instruction. No function waits for a context that it may have interrupted.
//!
//! | in a handler | |
//! |---|---|
//! | [`Shootdown::on_ipi`], [`Shootdown::poll`] | may be called; in a switch they leave both spaces to its end |
//! | [`Shootdown::record`], [`Shootdown::announce`], [`Shootdown::invalidate`], [`Batch`], [`Shootdown::pending`], [`Shootdown::pending_in`] | may be called |
//! | [`Shootdown::leave_lazy`] | may be called, and must be before the handler touches an address that [`Shootdown::enter_lazy`] excludes |
//! | [`Ticket::is_complete`], [`Ticket::detach`], [`Ticket::merge`], [`Shootdown::is_done`], [`Shootdown::wakers_due`] | may be called |
//! | [`Ticket::wait`], [`Ticket::block`] | may be called, but two handlers that have each interrupted a switch must not wait for each other: see there |
//! | [`Shootdown::wake_completed`], polling or dropping a [`Completion`] | run or drop wakers: if the kernel's wakers may be run and dropped in the context that was interrupted |
//! | [`Shootdown::enter_lazy`], [`Shootdown::activate`], [`Shootdown::deactivate`], [`Shootdown::cpu_online`], [`Shootdown::cpu_offline`] | only if the handler has not interrupted a function of this crate |
//!
//! A handler may touch what the interrupted context may touch, and after [`Shootdown::leave_lazy`]
//! every address, also inside `leave_lazy` itself and inside a switch. It never uses a translation
//! whose removal is complete. In a switch either of the two spaces may be the loaded one.
//!
//! # Example
//!
//! The hooks of a machine of one CPU without a TLB; a kernel's are a few lines of assembly.
//!
//! ```
//! use core::ptr::NonNull;
//! use topomem_percpu::{CpuId, CpuSet, Platform};
//! use topomem_shootdown::*;
//! use x86_64::PhysAddr;
//!
//! struct Machine;
//!
//! // SAFETY: there is one CPU, and no memory is handed out.
//! unsafe impl Platform for Machine {
//!     fn current_cpu(&self) -> CpuId {
//!         CpuId::BOOT
//!     }
//!     fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
//!         NonNull::dangling()
//!     }
//! }
//!
//! // SAFETY: there is no TLB to flush and nobody to interrupt.
//! unsafe impl Tlb for Machine {
//!     fn flush_page(&self, _page: VirtAddr, _size: PageSize) { /* invlpg */ }
//!     fn flush_non_global(&self) { /* reload CR3 */ }
//!     fn flush_all(&self) { /* toggle CR4.PGE */ }
//!     fn send_ipi(&self, _to: &CpuSet) { /* write the ICR */ }
//!     fn now(&self) -> Ticks {
//!         Ticks(0) // rdtsc
//!     }
//!     fn patience(&self) -> Ticks {
//!         Ticks(1 << 32)
//!     }
//! }
//!
//! static QUEUE: Shootdown<Machine> = Shootdown::new(Machine);
//! static SPACE: Domain = Domain::new();
//!
//! let pin = QUEUE.tlb().pin();
//! QUEUE.cpu_online(&pin)?;
//! // SAFETY: `SPACE` lives for ever; there are no page tables to load.
//! unsafe { QUEUE.activate(&pin, &SPACE, |_| SwitchFlushed::Yes) };
//!
//! // ... the page at 2 MiB is unmapped ...
//! let page = VirtAddr::new(0x20_0000)?;
//! let ticket = QUEUE.invalidate(&pin, &SPACE, Invalidation::page(page, PageSize::Size4KiB));
//! ticket.wait(&pin); // or `ticket.await`, or `ticket.detach()` and `QUEUE.is_done(..)`
//! // ... and now its frame may be freed.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]

#[cfg(feature = "fault-injection")]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod address;
mod asid;
mod batch;
mod broadcast;
mod completion;
mod cpu;
mod domain;
mod domain_id;
mod fault;
mod features;
mod generation;
mod handler;
mod invalidation;
mod issue;
mod lifecycle;
mod log;
mod page_range;
mod record;
mod request;
mod shootdown;
mod stats;
mod switch;
mod ticket;
mod tlb;
mod waiters;

pub use address::{AddressWidth, NonCanonical, PageSize, VirtAddr};
pub use asid::{Asid, RootLoad};
pub use batch::Batch;
pub use completion::{Completion, WakersDue};
pub use cpu::Lazy;
pub use domain::Domain;
#[cfg(feature = "fault-injection")]
pub use fault::Fault;
#[cfg(not(feature = "fault-injection"))]
pub(crate) use fault::Fault;
pub use features::TlbFeatures;
pub use generation::Generation;
pub use invalidation::{Invalidation, Scope, Tables};
pub use lifecycle::{OfflineError, OnlineError};
pub use page_range::{PageRange, PageRangeError};
pub use record::ChangeRecord;
pub use request::Request;
pub use shootdown::{DEFAULT_THRESHOLD, Shootdown};
pub use stats::{LATENCY_BUCKETS, Stats};
pub use ticket::Ticket;
pub use tlb::{SwitchFlushed, Ticks, Tlb, Unresponsive};
pub use waiters::WAITERS;
