//! What comes of one boot that measures.

use crate::record::{Distribution, Measurement};

/// Results, and how the samples of some are spread.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) results: Vec<Measurement>,
    pub(crate) distributions: Vec<Distribution>,
    /// What was started, as one would type it.
    pub(crate) command: Option<String>,
}
