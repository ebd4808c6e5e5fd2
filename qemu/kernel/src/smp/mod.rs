//! The other CPUs: how they are started, and how CPUs interrupt one another.

pub(crate) mod ipi;
pub(crate) mod park;
pub(crate) mod start;
mod trampoline;
