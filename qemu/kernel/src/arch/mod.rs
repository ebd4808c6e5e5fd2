//! The machine: segments, traps, paging, interrupt controllers, clocks and ports.

pub(crate) mod clock;
pub(crate) mod exit;
pub(crate) mod features;
pub(crate) mod gdt;
pub(crate) mod interrupt;
pub(crate) mod paging;
pub(crate) mod probe;
pub(crate) mod random;
pub(crate) mod serial;
pub(crate) mod tlb;
pub(crate) mod user;
