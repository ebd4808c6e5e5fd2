//! What a run reports: its records, what the oracle saw go wrong, and whether every frame is back.

pub(super) mod account;
pub(super) mod failure;
pub(super) mod failure_log;
pub(super) mod failure_text;
pub(super) mod record;
pub(super) mod summary;
pub(super) mod text;
