//! The other CPUs: how they are started, and how CPUs interrupt one another.

pub mod ipi;
pub mod park;
pub mod start;
mod trampoline;
