//! Large leaves of regions: cutting all of them in a range, and making one of small ones by copying.

mod collapse;
mod cut;

pub(crate) use collapse::{Collapse, Collapsed};
