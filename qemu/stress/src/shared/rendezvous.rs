//! Where two CPUs meet to change the same page, the second right after the first.

use core::sync::atomic::{AtomicU64, Ordering};

/// What the two CPUs do with the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PairedChange {
    /// Both unmap it: the second finds nothing to unmap.
    UnmapTwice,
    /// Both make it read-only: the second finds nothing to change.
    ProtectTwice,
    /// The first moves it to another address, the second unmaps it there.
    RemapAndUnmap,
}

/// When the first CPU tells the others of its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// At once.
    Immediate,
    /// In a batch that it issues when the second CPU's change is complete.
    Batched,
}

/// What two CPUs have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meeting {
    /// Index of the space among the run's.
    pub space: usize,
    /// Index of the page among the space's.
    pub page: usize,
    pub change: PairedChange,
    pub announcement: Announcement,
}

/// How far two CPUs have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody meets.
    Empty,
    /// The first CPU waits for a second.
    Offered,
    /// There is a second CPU.
    Accepted,
    /// The second CPU has the page's translation in its TLB.
    Ready,
    /// The first CPU has given the right to change the slot to the second, and changes the page now.
    HandedOver,
    /// The first CPU could not make its change.
    Refused,
    /// The second CPU has finished.
    Done,
}

impl Stage {
    const ALL: [Stage; 7] = [
        Stage::Empty,
        Stage::Offered,
        Stage::Accepted,
        Stage::Ready,
        Stage::HandedOver,
        Stage::Refused,
        Stage::Done,
    ];
}

impl PairedChange {
    pub(crate) const ALL: [PairedChange; 3] =
        [PairedChange::UnmapTwice, PairedChange::ProtectTwice, PairedChange::RemapAndUnmap];
}

impl Announcement {
    pub(crate) const ALL: [Announcement; 2] = [Announcement::Immediate, Announcement::Batched];
}

/// What two CPUs can agree on, in the upper 56 bits of a word.
pub(crate) trait Agreement: Copy {
    fn encode(self) -> u64;
    fn decode(word: u64) -> Option<Self>;
}

impl Agreement for Meeting {
    fn encode(self) -> u64 {
        (self.space as u64) << 32
            | (self.page as u64) << 16
            | (self.change as u64) << 12
            | (self.announcement as u64) << 8
    }

    fn decode(word: u64) -> Option<Meeting> {
        Some(Meeting {
            space: (word >> 32) as usize,
            page: (word >> 16) as u16 as usize,
            change: *PairedChange::ALL.get((word >> 12 & 0xf) as usize)?,
            announcement: *Announcement::ALL.get((word >> 8 & 0xf) as usize)?,
        })
    }
}

/// The meeting of two CPUs of a run; there is one at a time.
///
/// The stage changes hands: each is entered by one of the two CPUs, while the other waits for it.
#[derive(Debug, Default)]
pub(crate) struct Rendezvous {
    /// The stage in the low byte, above it the meeting.
    word: AtomicU64,
}

impl Rendezvous {
    /// Offers `meeting` to all CPUs; false if two CPUs meet already.
    pub(crate) fn offer(&self, meeting: impl Agreement) -> bool {
        let offered = meeting.encode() | Stage::Offered as u64;
        // Release pairs with the Acquire in `accept`, here and in `enter`: what the CPU did before is
        // seen. Acquire pairs with the Release of the last meeting's end.
        self.word.compare_exchange(0, offered, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes the offer back; false if a CPU has accepted it.
    pub(crate) fn withdraw(&self, meeting: impl Agreement) -> bool {
        let offered = meeting.encode() | Stage::Offered as u64;
        self.word.compare_exchange(offered, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Accepts what another CPU offers.
    pub(crate) fn accept<A: Agreement>(&self) -> Option<A> {
        // Relaxed: a hint, in each step of each CPU.
        let word = self.word.load(Ordering::Relaxed);
        if word & 0xff != Stage::Offered as u64 {
            return None;
        }
        let accepted = word & !0xff | Stage::Accepted as u64;
        self.word.compare_exchange(word, accepted, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        A::decode(word)
    }

    /// The stage now.
    pub(crate) fn stage(&self) -> Stage {
        let stage = self.word.load(Ordering::Acquire) & 0xff;
        Stage::ALL.get(stage as usize).copied().unwrap_or(Stage::Empty)
    }

    /// Enters the next stage: by the CPU whose turn it is.
    pub(crate) fn enter(&self, stage: Stage) {
        // Relaxed: only the CPU whose turn it is stores the word.
        let meeting = if stage == Stage::Empty { 0 } else { self.word.load(Ordering::Relaxed) & !0xff };
        self.word.store(meeting | stage as u64, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cpus_agree_on_one_meeting() {
        let rendezvous = Rendezvous::default();
        assert_eq!(rendezvous.accept::<Meeting>(), None);
        for change in PairedChange::ALL {
            for announcement in Announcement::ALL {
                let meeting = Meeting { space: 2, page: 31, change, announcement };
                assert!(rendezvous.offer(meeting));
                assert!(!rendezvous.offer(meeting), "one at a time");
                assert_eq!(rendezvous.accept(), Some(meeting));
                assert_eq!(rendezvous.accept::<Meeting>(), None, "one second CPU");
                assert!(!rendezvous.withdraw(meeting));
                for stage in Stage::ALL {
                    rendezvous.enter(stage);
                    assert_eq!(rendezvous.stage(), stage);
                }
                rendezvous.enter(Stage::Empty);
                assert!(rendezvous.offer(meeting) && rendezvous.withdraw(meeting));
                assert_eq!(rendezvous.stage(), Stage::Empty);
            }
        }
    }
}
