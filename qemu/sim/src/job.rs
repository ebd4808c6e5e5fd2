//! What `cargo xtask sim` tells the program that simulates: one JSON object, its only argument.
//!
//! The program writes records as the kernel does, and ends with the status that QEMU has when the kernel ends.

use serde::{Deserialize, Serialize};

/// A machine, and what to do on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SimJob {
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) distances: Vec<Vec<u8>>,
    pub(crate) scenario: String,
    pub(crate) milliseconds: u64,
    pub(crate) seed: u64,
    pub(crate) fault: Option<String>,
    /// What the TLBs offer, by the name that `--tlb` has for it.
    pub(crate) tlb: Option<String>,
}

/// One node; its number is its index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SimNode {
    pub(crate) cpus: Vec<u32>,
    /// Physical addresses, start and end, end exclusive.
    pub(crate) ranges: Vec<(u64, u64)>,
}

/// QEMU's status is `2 * value + 1` for what the kernel writes to `isa-debug-exit`.
pub(crate) const SUCCESS: u8 = 2 * 0x10 + 1;
/// Failures were found.
pub(crate) const FAILURES_FOUND: u8 = 2 * 0x11 + 1;
