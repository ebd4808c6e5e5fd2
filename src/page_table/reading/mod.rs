//! Reading what pages are, with and without claims. Nothing here changes an entry.

pub(super) mod records;
pub(super) mod scan;
pub(super) mod vacancy;
pub(super) mod visit;
pub(super) mod walk;
