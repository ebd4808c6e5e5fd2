//! The machine: segments, traps, paging, interrupt controllers, clocks and ports.

pub mod clock;
pub mod exit;
pub mod features;
pub mod gdt;
pub(crate) mod interrupt;
pub mod paging;
pub mod probe;
pub mod random;
pub mod serial;
pub mod tlb;
pub mod user;
