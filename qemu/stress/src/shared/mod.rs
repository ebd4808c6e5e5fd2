//! What the CPUs of a run share: barriers, ways to hand over what they hold, and the pages that all use.

pub(super) mod barrier;
pub(super) mod file;
pub(super) mod region_pages;
pub(super) mod rendezvous;
pub(super) mod ring;
pub(super) mod shared_space;
pub(super) mod transfer;
pub(super) mod unresponsive;
