//! Reading the state of pages, with and without claims. No entry changes.

pub(super) mod records;
pub(super) mod scan;
pub(super) mod vacancy;
pub(super) mod visit;
pub(super) mod walk;
