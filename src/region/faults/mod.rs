//! Page faults: the first access to a page brings a frame, or a page of an object.

pub(super) mod around;
pub(super) mod decide;
pub(super) mod fault;
pub(super) mod first_touch;
pub(super) mod handle;
pub(super) mod large;
pub(super) mod object;
pub(super) mod object_touch;
pub(super) mod spare;
pub(super) mod stack;
