//! What the guest asks of its system: processes, CPUs, clocks, files, and the kernel's own counts.

pub(super) mod child;
pub(super) mod clock;
pub(super) mod cpu;
pub(super) mod file;
pub(super) mod interrupts;
pub(super) mod machine;
pub(super) mod pseudo_file;
pub(super) mod traces;
