//! Mappings that CPUs share: changed, read, and judged.

pub(super) mod bursts;
pub(super) mod changes;
pub(super) mod pairs;
pub(super) mod probes;
pub(super) mod sizes;
