//! Interrupts: controllers, vectors, the table of handlers, and traps.

pub mod apic;
pub mod idt;
pub mod pic;
pub mod trap;
pub mod vector;
