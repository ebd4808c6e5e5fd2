//! Handling accesses to pages unmapped or mapped with too little permission: the page, and the
//! pages around it.

pub(super) mod around;
pub(super) mod resolve;
pub(super) mod touch;
