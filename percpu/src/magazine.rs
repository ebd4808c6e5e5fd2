//! Magazines.
pub(crate) const MAX_ROUNDS: usize = 30;
