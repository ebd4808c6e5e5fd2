//! Runs steps, each kind in its own way.

pub(super) mod bench;
pub(super) mod beside;
pub(super) mod cargo;
pub(super) mod machine;
mod memory;
mod stepped;
pub(super) mod tier;
