//! Giving tables back to the allocator: tables that map nothing, and all tables of a space that has gone.

pub(super) mod dismantle;
pub(super) mod reclaim;
