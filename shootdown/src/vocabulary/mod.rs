//! The values of which requests are made: addresses, pages, invalidations, and the numbers that
//! order them.

pub(super) mod address;
pub(super) mod generation;
pub(super) mod invalidation;
pub(super) mod page_range;
pub(super) mod request;
