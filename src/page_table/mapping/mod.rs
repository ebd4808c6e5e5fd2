//! Mapping, unmapping and reprotecting frames named by the caller. Regions play no part, except for
//! the removal of regions' pages by an unmap.

pub(super) mod change;
pub(super) mod changed;
pub(super) mod edit;
#[cfg(feature = "x86_64")]
pub(super) mod edit_single;
pub(super) mod exchange;
pub(super) mod map;
pub(super) mod share;
pub(super) mod single;
pub(super) mod split;
