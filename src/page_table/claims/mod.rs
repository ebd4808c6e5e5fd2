//! Claims of entries: how a change gets a part of a page table for itself.
//!
//! `claim.rs` is the lock of one entry, `cursor.rs` claims the entries that serve a range and describes the
//! protocol, `pieces.rs` and `roots.rs` claim several tables at once, and `path.rs` remembers the way from the
//! root to a claimed entry.

pub(super) mod alike;
pub(super) mod claim;
pub(super) mod cursor;
pub(super) mod path;
pub(super) mod pieces;
pub(super) mod roots;
