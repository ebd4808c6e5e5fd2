//! A machine without locks, whose CPUs one thread plays, and what the stepped operations act on.

pub(crate) mod computer;
mod machine;
pub(crate) mod scene;
