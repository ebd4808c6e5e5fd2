//! The machine: segments, traps, paging, interrupt controllers, clocks and ports.

pub mod apic;
pub mod clock;
pub mod exit;
pub mod features;
pub mod gdt;
pub mod idt;
pub mod paging;
pub mod pic;
pub mod probe;
pub mod random;
pub mod serial;
pub mod tlb;
pub mod trap;
pub mod user;
pub mod vector;
