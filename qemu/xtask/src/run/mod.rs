//! One run of a machine, emulated or simulated: started, watched, read and judged.

pub(super) mod description;
pub(super) mod record;
pub(super) mod session;
pub(super) mod symbolize;
pub(super) mod verdict;
