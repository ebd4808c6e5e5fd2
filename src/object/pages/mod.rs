//! The pages of an object: the word of each, the index that finds it, and its way into memory.

pub(super) mod bytes;
pub(super) mod index;
pub(super) mod present;
pub(super) mod word;
