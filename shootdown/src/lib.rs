//! A lock-free, IPI-based TLB shootdown queue whose completion is a future.
#![no_std]

#[cfg(test)]
extern crate std;

mod address;
mod batch;
mod completion;
mod cpu;
mod domain;
mod fault;
mod generation;
mod handler;
mod invalidation;
mod issue;
mod lifecycle;
mod log;
mod page_range;
mod request;
mod shootdown;
mod stats;
mod switch;
mod ticket;
mod tlb;
mod waiters;

pub use address::{AddressWidth, NonCanonical, PageSize, VirtAddr};
pub use batch::Batch;
pub use completion::{Completion, WakersDue};
pub use cpu::Lazy;
pub use domain::Domain;
#[cfg(feature = "fault-injection")]
pub use fault::Fault;
#[cfg(not(feature = "fault-injection"))]
pub(crate) use fault::Fault;
pub use generation::Generation;
pub use invalidation::{Invalidation, Scope, Tables};
pub use lifecycle::{OfflineError, OnlineError};
pub use page_range::{PageRange, PageRangeError};
pub use request::Request;
pub use shootdown::{DEFAULT_THRESHOLD, Shootdown};
pub use stats::{LATENCY_BUCKETS, Stats};
pub use ticket::Ticket;
pub use tlb::{SwitchFlushed, Ticks, Tlb, Unresponsive};
pub use waiters::WAITERS;
