//! What the reference kernel decides before it has memory, apart from the instructions that only a
//! kernel may execute. So these parts are tested on the host.
//!
//! - [`StartInfo`] reads what the loader left in memory, and names the places where it lies.
//! - [`layout`] says where the direct map is, and how far it reaches.
//! - [`memory_map`] makes topomem's memory map out of the firmware's.
//! - [`EarlyFrames`] serves the frames for the first page tables.
//! - [`Tables`] builds page tables, [`direct_map`] the kernel's mapping of all memory.
//! - [`Icr`] is the word that sends an interrupt; it cannot hold an APIC id that was cut.
//! - [`checksum`] compares what the runner loaded with what the kernel finds.
//! - [`KernelScenario`] names what only the kernel can run.
//! - [`Admission`] decides whether a CPU that starts late takes part.
#![cfg_attr(not(test), no_std)]

mod admission;
mod checksum;
pub mod direct_map;
mod early_frames;
mod icr;
pub mod layout;
pub mod memory_map;
mod scenario;
mod start_info;
mod tables;
mod window;

pub use admission::Admission;
pub use checksum::checksum;
pub use early_frames::{EarlyFrames, NoEarlyMemory};
pub use icr::{ApicAddress, ApicMode, Destination, Icr, LogicalId, Message, StartUpPage, Unreachable};
pub use scenario::KernelScenario;
pub use start_info::{MemoryKind, MemoryMapEntry, Placed, StartInfo, StartInfoError};
pub use tables::{Leaf, Leaves, MapError, Tables};
pub use window::Window;
