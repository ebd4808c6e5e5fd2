//! What comes of one boot that measures.

use crate::run::record::{Absent, Distribution, Measurement};

/// Results, how the samples of some are spread, and what there are no results of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) results: Vec<Measurement>,
    pub(crate) distributions: Vec<Distribution>,
    pub(crate) absent: Vec<Absent>,
    /// What was started, as one would type it.
    pub(crate) command: Option<String>,
}
