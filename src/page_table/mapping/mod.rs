//! Mapping, unmapping and reprotecting frames that the caller names. Regions play no part, except that an unmap
//! also removes pages of regions.

pub(super) mod change;
pub(super) mod changed;
pub(super) mod edit;
pub(super) mod exchange;
pub(super) mod map;
pub(super) mod share;
pub(super) mod single;
pub(super) mod split;
