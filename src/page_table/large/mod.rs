//! Large leaves: cutting all of those in a range, making one of small leaves by copying, and making one of small
//! leaves that map one run already.

mod collapse;
mod cut;
pub(super) mod promote;

pub(crate) use collapse::{Collapse, Collapsed};
