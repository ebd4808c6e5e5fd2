//! The way of pages to their place outside memory and back: the queue of requests, and who serves it.

pub(super) mod answered;
pub(super) mod pager;
pub(super) mod queue;
pub(super) mod serve;
pub(super) mod wait;
pub(super) mod writeback;
