//! The classes of a node with slabs in their inboxes since the last collection.

use crate::slab::{Arrival, CLASS_COUNT, SizeClass, WasFirst};
use crate::sync::atomic::{AtomicU64, Ordering};

const _: () = assert!(CLASS_COUNT <= 64, "a bit for each class");

/// A bit for each class, set while the inbox of its class is not empty, or about to receive a slab.
pub(crate) struct Arrivals(AtomicU64);

impl Arrivals {
    pub(crate) fn new() -> Arrivals {
        Arrivals(AtomicU64::new(0))
    }

    /// Records the arrival of a slab of `class` in its inbox, for [`Arrivals::take`].
    pub(crate) fn note_arrival(&self, class: SizeClass, arrival: Arrival) {
        if arrival.first == WasFirst::Yes {
            self.note(class);
        }
    }

    /// Marks the inbox of `class` for collection.
    pub(crate) fn note(&self, class: SizeClass) {
        // AcqRel, here and in `take`, pair with each other: the taker of the bit sees the contents
        // of the inbox. An earlier taker did not clear this bit, so the bit stays set.
        self.0.fetch_or(1 << class.index(), Ordering::AcqRel);
    }

    /// Takes the classes marked for collection. Cost: one load if there are none.
    pub(crate) fn take(&self) -> impl Iterator<Item = SizeClass> + use<> {
        let noted = match self.0.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.0.swap(0, Ordering::AcqRel),
        };
        SizeClass::all().filter(move |class| noted >> class.index() & 1 == 1)
    }
}
