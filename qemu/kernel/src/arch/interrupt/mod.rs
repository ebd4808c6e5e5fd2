//! Interrupts: controllers, vectors, the table of handlers, and traps.

pub(crate) mod apic;
pub(crate) mod idt;
pub(crate) mod pic;
pub(crate) mod trap;
pub(crate) mod vector;
