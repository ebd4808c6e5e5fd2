//! A machine without locks, whose CPUs one thread plays, and what the stepped operations act on.

pub mod computer;
mod machine;
pub mod scene;
