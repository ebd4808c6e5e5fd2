//! Pages and the nodes of their frames.

mod moves;
mod transfer;

pub use moves::{MoveError, PageMove};
pub(super) use transfer::is_hidden;
