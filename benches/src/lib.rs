//! The measuring side of `cargo xtask bench`: peers and topomem on the same cases, interleaved.

#[cfg(topomem_count)]
pub mod contention;
pub mod frames;
#[cfg(feature = "hardening")]
pub mod hardening;
pub mod heap;
pub mod instructions;
pub mod random;
pub mod ranges;
pub mod sample;
pub mod subject;
pub mod subjects;
pub mod suite;
pub mod threads;
