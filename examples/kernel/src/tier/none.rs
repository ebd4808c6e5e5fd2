//! No tier: the kernel alone.

use crate::machine::Machine;

pub fn boot(_machine: &Machine) {}

pub fn cpu_online() {}

pub fn cpu_offline() {}

pub fn interrupt() {}
