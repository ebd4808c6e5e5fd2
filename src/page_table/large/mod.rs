//! Large leaves: cutting all large leaves of a range, combining small leaves by copying, and
//! combining small leaves with contiguous frames.

mod collapse;
mod cut;
pub(super) mod promote;

pub(crate) use collapse::{Collapse, Collapsed};
