//! No tier: the kernel alone.

use crate::machine::Machine;

pub(crate) fn boot(_machine: &Machine) {}

pub(crate) fn cpu_online() {}

pub(crate) fn cpu_offline() {}

pub(crate) fn interrupt() {}
