//! The calls of the mmap family, and the errors of each.

pub(super) mod advise;
pub(super) mod collapse;
pub(super) mod copy;
pub(super) mod error;
pub(super) mod fork;
pub(super) mod heap;
pub(super) mod mmap;
pub(super) mod mremap;
pub(super) mod protect;
pub(super) mod protect_object;
pub(super) mod relocate;
pub(super) mod request;
pub(super) mod reserve;
