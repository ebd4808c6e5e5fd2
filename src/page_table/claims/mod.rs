//! Claims of entries: a change's exclusive use of a part of a page table.
//!
//! `claim.rs` is the lock of an entry, `cursor.rs` claims the entries serving a range and describes
//! the protocol, `pieces.rs` and `roots.rs` claim several tables at once, and `path.rs` remembers
//! the way from the root to a claimed entry.

pub(super) mod alike;
pub(super) mod claim;
pub(super) mod cursor;
pub(super) mod path;
pub(super) mod pieces;
pub(super) mod roots;
