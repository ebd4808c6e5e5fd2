//! The types in calls of the allocator: requests, policies, zones, the configuration, errors.

mod config;
mod error;
mod frame_number;
mod node_set;
mod policy;
mod request;
mod stats;
mod zone;

pub use config::{DoubleFrees, FramesConfig, PerFrameTable, ZeroedFrames, Zeroing, ZoneWatermarks};
pub use error::{AllocError, FreeError, InitError, InvalidRequest, Obstacle, OnlineError};
pub use node_set::NodeSet;
pub use policy::Policy;
pub use request::FrameRequest;
pub use stats::{MagazineStats, NodeStats, Totals, ZeroedStats, ZoneStats};
pub use zone::{Pressure, Watermarks, Zone, ZoneLimits};

pub(crate) use frame_number::{BLOCK, BlockNumber, FrameNumber, WordNumber};
pub(super) use node_set::{Allowed, WORDS, place};
pub(super) use request::Caller;
