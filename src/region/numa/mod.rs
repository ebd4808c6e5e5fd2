//! Pages and the nodes of their frames.

mod moves;
mod policy;
mod range;
mod transfer;

pub use moves::{MoveError, PageMove};
pub(super) use policy::Placer;
pub(crate) use policy::SpacePolicy;
pub use range::MovedPages;
pub(super) use transfer::is_hidden;
