//! The allocators that are measured.
#![allow(missing_debug_implementations, reason = "the peers have none")]

mod bitmap;
mod buddy;
mod nothing;
mod paranoid;
mod topomem;

pub use bitmap::Bitmap;
pub use buddy::Buddy;
pub use nothing::Nothing;
pub use paranoid::Paranoid;
pub use topomem::Topomem;
