//! Answering accesses to pages that are not mapped, or not mapped so: one page, and the pages around the page.

pub(super) mod around;
pub(super) mod resolve;
pub(super) mod touch;
