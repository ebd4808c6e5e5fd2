//! The classes of a node whose inboxes got slabs since somebody collected them.

use crate::slab::{Arrival, CLASS_COUNT, SizeClass, WasFirst};
use crate::sync::atomic::{AtomicU64, Ordering};

const _: () = assert!(CLASS_COUNT <= 64, "a bit for each class");

/// A bit for each class. A bit is set as long as the inbox of its class is not empty, or about to be.
pub(crate) struct Arrivals(AtomicU64);

impl Arrivals {
    pub(crate) fn new() -> Arrivals {
        Arrivals(AtomicU64::new(0))
    }

    /// Notes that a slab of `class` got into its inbox, for [`Arrivals::take`].
    pub(crate) fn note_arrival(&self, class: SizeClass, arrival: Arrival) {
        if arrival.first == WasFirst::Yes {
            self.note(class);
        }
    }

    /// Notes that the inbox of `class` is to be collected.
    pub(crate) fn note(&self, class: SizeClass) {
        // AcqRel, here and in `take`: whoever takes the bit sees what is in the inbox. Whoever came
        // earlier did not take the bit, so it stays.
        self.0.fetch_or(1 << class.index(), Ordering::AcqRel);
    }

    /// Takes the classes whose inboxes are to be collected. One load if there are none.
    pub(crate) fn take(&self) -> impl Iterator<Item = SizeClass> + use<> {
        let noted = match self.0.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.0.swap(0, Ordering::AcqRel),
        };
        SizeClass::all().filter(move |class| noted >> class.index() & 1 == 1)
    }
}
