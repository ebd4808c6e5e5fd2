//! Headers.
pub(crate) const HEADER_BYTES: usize = 256;
