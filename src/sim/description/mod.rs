//! The description of a machine: from a few numbers to a blueprint, and to the firmware tables that
//! tell of it.

pub(super) mod blueprint;
pub(super) mod builder;
pub(super) mod firmware;
pub(super) mod tables;
