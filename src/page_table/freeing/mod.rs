//! Freeing tables: tables without mappings, and all tables of a dropped space.

pub(super) mod dismantle;
pub(super) mod reclaim;
