//! Lists of frames without allocation: single frames, shared frames and runs of 2 MiB.

pub(super) mod chain;
pub(super) mod gather;
pub(super) mod runs;
