//! The allocators that are measured.
#![allow(missing_debug_implementations, reason = "the peers have none")]

mod bitmap;
mod buddy;
mod topomem;

pub use bitmap::Bitmap;
pub use buddy::Buddy;
pub use topomem::Topomem;
