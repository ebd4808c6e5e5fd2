//! What callers pass and get back: requests, policies, zones, the configuration, errors.

mod config;
mod error;
mod policy;
mod request;
mod zone;

pub use config::{DoubleFrees, FramesConfig, PerFrameTable, ZeroedFrames, Zeroing, ZoneWatermarks};
pub use error::{AllocError, FreeError, InitError, InvalidRequest, Obstacle, OnlineError};
pub use policy::{NodeSet, Policy};
pub use request::FrameRequest;
pub use zone::{Pressure, Watermarks, Zone, ZoneLimits};

pub(super) use request::Caller;
