//! The stress scenario and its oracle.
//!
//! Every CPU allocates and frees (across CPUs too), maps, unmaps, protects and reads pages of
//! shared address spaces, switches between spaces and idles, at random but seeded. An oracle
//! with books of its own watches: a frame handed out twice, a lost frame, a stale translation, an
//! allocation from the wrong node, a changed object. The reference kernel and the simulator run
//! the same code through a [`Rig`]:
//!
//! 1. make a [`Truth`] of the machine as it is, then (for `--break distance`) distort the tables,
//! 2. boot the service, make a [`Run`],
//! 3. drive [`participate`] on every CPU,
//! 4. [`Run::conclude`], look at [`Run::failures`], and report [`Record::End`].
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "sim"))]
extern crate std;

mod breakage;
mod distort;
pub mod oracle;
mod outcome;
mod participate;
mod random;
mod rig;
mod run;
mod scenario;
mod shared;
#[cfg(feature = "sim")]
pub mod sim;
mod worker;

pub use breakage::Break;
pub use distort::{NothingToDistort, distort_distances};
pub use oracle::Truth;
pub use outcome::account::{Account, COUNTED_NODES, drain, inconsistencies};
pub use outcome::failure::{Failure, FailureKind};
pub use outcome::failure_log::{FailureLog, KEPT};
pub use outcome::failure_text::Place;
pub use outcome::record::{CpuSummary, NodeSummary, Progress, Record};
pub use outcome::text::Text;
pub use participate::participate;
pub use random::Random;
pub use rig::{Rig, Window};
pub use run::{Options, Run, SetupError};
pub use scenario::{Course, Limit, SCENARIOS, Scenario, Share, Weights};
pub use shared::unresponsive::Report;
