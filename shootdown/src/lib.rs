//! A lock-free, IPI-based TLB shootdown queue whose completion is a future.
//!
//! Every CPU caches translations. After a change of page tables, the remote CPUs must drop their
//! cached translations before the memory behind them is reused. This crate tells the CPUs with as
//! few interrupts as possible, and tells the issuer of the change when all have finished.
//!
//! # Protocol
//!
//! - A [`Domain`] (one per address space, one for the kernel) counts its invalidations in
//!   **generations**, keeps the last 32 in a bounded lock-free log, and knows the CPUs with
//!   possible translations.
//! - **Record** ([`Shootdown::record`]): after changing the page tables, append to the log, with
//!   the lock of the changed entries still held. Generations are thereby ordered as the changes
//!   are.
//! - **Announce** ([`Shootdown::announce`]): full barrier; read the members; interrupt each member
//!   without a pending interrupt. [`Shootdown::invalidate`] records and announces.
//! - **Handle** ([`Shootdown::on_ipi`]): clear the pending word; read the generation; replay the
//!   log from the last published generation, or flush everything if the log doesn't know enough or
//!   the pages are too many; only then publish the generation.
//! - **Join** ([`Shootdown::activate`]): become a member; full barrier; read the generation; load
//!   the tables; publish. Sender and joiner each store, fence and load: one sees the other.
//! - **Complete**: a [`Ticket`] is complete when every targeted CPU has published the generation,
//!   has left the domain, is lazy in it or offline. Acknowledgements are not counted.
//!
//! If the TLB tags translations by address space, a CPU keeps translations of left spaces and
//! compares generations on return. If the hardware broadcasts invalidations, changes of single
//! pages need no interrupt ([`TlbFeatures`]).
//!
//! No request is lost: an overrun of the log, or a slot unfilled or torn, leads to a full flush. An
//! unresponsive CPU keeps the ticket incomplete and is reported. Memory therefore stays safe.
//!
//! # Interrupt handlers
//!
//! An interrupt handler may interrupt any function of this crate on its CPU, and any closure passed
//! to such a function, at any instruction. No function waits for a context it may have interrupted.
//!
//! | in a handler | |
//! |---|---|
//! | [`Shootdown::on_ipi`], [`Shootdown::poll`] | may be called; in a switch they leave both spaces to its end |
//! | [`Shootdown::record`], [`Shootdown::announce`], [`Shootdown::invalidate`], [`Batch`], [`Shootdown::pending`], [`Shootdown::pending_in`] | may be called |
//! | [`Shootdown::leave_lazy`] | may be called, and must be before the handler touches an address excluded by [`Shootdown::enter_lazy`] |
//! | [`Ticket::is_complete`], [`Ticket::detach`], [`Ticket::merge`], [`Shootdown::is_done`], [`Shootdown::wakers_due`] | may be called |
//! | [`Ticket::wait`], [`Ticket::block`] | may be called, but two handlers in the middle of interrupted switches must not wait for each other: see there |
//! | [`Shootdown::wake_completed`], polling or dropping a [`Completion`] | run or drop wakers: may be called if the kernel's wakers may run and be dropped in the interrupted context |
//! | [`Shootdown::enter_lazy`], [`Shootdown::activate`], [`Shootdown::deactivate`], [`Shootdown::cpu_online`], [`Shootdown::cpu_offline`] | only if the handler has not interrupted a function of this crate |
//!
//! A handler may touch the addresses allowed to the interrupted context, and after
//! [`Shootdown::leave_lazy`] every address, even inside `leave_lazy` itself and inside a switch.
//! The handler never uses a translation whose removal is complete. In a switch, either of the two
//! spaces may be loaded.
//!
//! # Example
//!
//! The hooks of a machine with a single CPU and no TLB; a kernel's are a few lines of assembly.
//!
//! ```
//! use core::ptr::NonNull;
//! use topomem_percpu::{CpuId, CpuSet, PhysAddr, Platform};
//! use topomem_shootdown::*;
//!
//! struct Machine;
//!
//! // SAFETY: the machine has a single CPU, and hands out no memory.
//! unsafe impl Platform for Machine {
//!     fn current_cpu(&self) -> CpuId {
//!         CpuId::BOOT
//!     }
//!     fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
//!         NonNull::dangling()
//!     }
//! }
//!
//! // SAFETY: the machine has no TLB to flush and no second CPU to interrupt.
//! unsafe impl Tlb for Machine {
//!     fn flush_page(&self, _page: VirtAddr, _size: PageSize) { /* invlpg */ }
//!     fn flush_non_global(&self) { /* reload CR3 */ }
//!     fn flush_all(&self) { /* toggle CR4.PGE */ }
//!     fn send_ipi(&self, _to: &CpuSet) { /* write the ICR */ }
//!     fn now(&self) -> Ticks {
//!         Ticks(0) // rdtsc
//!     }
//!     fn unresponsive_timeout(&self) -> Ticks {
//!         Ticks(1 << 32)
//!     }
//! }
//!
//! static QUEUE: Shootdown<Machine> = Shootdown::new(Machine);
//! static BOOT_CPU: CpuState = CpuState::new(); // or memory of the CPU's node
//! static SPACE: Domain = Domain::new();
//!
//! let pin = QUEUE.tlb().pin();
//! QUEUE.place(pin.cpu(), &BOOT_CPU)?;
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

/// Keeps the README's code compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod cpu;
mod domain;
mod fault;
mod protocol;
mod shootdown;
mod tlb;
mod vocabulary;
mod waiting;

pub use cpu::asid::{Asid, RootLoad};
pub use cpu::lifecycle::{OfflineError, OnlineError};
pub use cpu::states::PlaceError;
pub use cpu::stats::{LATENCY_BUCKETS, Stats};
pub use cpu::{CpuState, Lazy};
pub use domain::Domain;
#[cfg(feature = "fault-injection")]
pub use fault::Fault;
pub use protocol::batch::Batch;
pub use protocol::record::ChangeRecord;
pub use protocol::ticket::Ticket;
pub use shootdown::{DEFAULT_THRESHOLD, Shootdown};
pub use tlb::features::TlbFeatures;
pub use tlb::{SwitchFlushed, Ticks, Tlb, Unresponsive};
pub use vocabulary::address::{AddressWidth, NonCanonical, PageSize, VirtAddr};
pub use vocabulary::generation::Generation;
pub use vocabulary::invalidation::{Invalidation, Scope, Tables};
pub use vocabulary::page_range::{PageRange, PageRangeError};
pub use vocabulary::request::Request;
pub use waiting::completion::{Completion, WakersDue};
pub use waiting::deferred::{Deferred, Full};
pub use waiting::waiters::WAITERS;

/// The names that the wiring of a kernel needs, for `use topomem_shootdown::prelude::*`.
///
/// A name that the kernel has itself goes before a name of the prelude.
///
/// ```
/// use topomem_shootdown::prelude::*;
///
/// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
/// assert_eq!(page.bytes(), 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub mod prelude {
    pub use topomem_percpu::{CpuId, CpuPin, CpuSet, PinGuard, Platform, Saved};

    pub use crate::{
        CpuState, Deferred, Domain, Invalidation, PageRange, PageSize, Shootdown, SwitchFlushed, Ticket,
        Ticks, Tlb, Unresponsive, VirtAddr,
    };
}
