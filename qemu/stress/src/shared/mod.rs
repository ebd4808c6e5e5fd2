//! What the CPUs of a run share: barriers, ways to hand over what they hold, and the pages that all use.

pub(super) mod barrier;
pub(super) mod deafness;
pub(super) mod file;
pub(super) mod mailbox;
pub(super) mod parcel;
pub(super) mod region_pages;
pub(super) mod rendezvous;
pub(super) mod shared_space;
