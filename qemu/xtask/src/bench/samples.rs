//! How often each kind of case is measured.

use serde::Serialize;

/// Samples of each kind of case in one boot, the same for every subject; none where it is not to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Samples {
    /// Single changes.
    pub(crate) changes: u64,
    /// Bursts that topomem waits for once.
    pub(crate) bursts: u64,
    /// Rounds of changes that topomem has in flight at once.
    pub(crate) in_flight: u64,
    /// Rounds beside idle CPUs.
    pub(crate) idle: u64,
}

impl Samples {
    /// The words by which guests are asked for them.
    pub(crate) fn words(self) -> String {
        let Self { changes, bursts, in_flight, idle } = self;
        format!("changes={changes} bursts={bursts} in_flight={in_flight} idle={idle}")
    }
}
