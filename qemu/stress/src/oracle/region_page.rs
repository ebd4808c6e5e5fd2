//! A page that all CPUs use by regions: what it is to be, and what it must hold.

use core::sync::atomic::{AtomicU64, Ordering};

use topomem::VirtAddr;
use topomem::region::FaultError;

/// What a page's region permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permits {
    /// The page belongs to no region.
    Vacant,
    /// Neither reads nor writes.
    Nothing,
    /// Reads.
    Reads,
    /// Reads and writes.
    Writes,
}

impl Permits {
    const ALL: [Permits; 4] = [Permits::Vacant, Permits::Nothing, Permits::Reads, Permits::Writes];
}

/// What the words of a page hold that carry its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Zero, since [`PageState::written`].
    Zeros,
    /// The tag of [`PageState::written`].
    Tag,
}

/// What a page is, and whether a CPU is changing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageState {
    /// What may be done with it.
    pub permits: Permits,
    /// What it holds.
    pub contents: Contents,
    /// Counts changes.
    pub version: u32,
    /// The version that the contents are of.
    pub written: u32,
    /// Is a CPU changing it? Then the rest is as before.
    pub busy: bool,
}

const BUSY: u64 = 1;
const PERMITS_SHIFT: u32 = 1;
const TAGGED: u64 = 1 << 3;
const WRITTEN_SHIFT: u32 = 4;
const VERSION_SHIFT: u32 = 34;
const NUMBER: u64 = (1 << 30) - 1;

impl PageState {
    /// Of no region, and never changed.
    pub const NEW: PageState = PageState {
        permits: Permits::Vacant,
        contents: Contents::Zeros,
        version: 0,
        written: 0,
        busy: false,
    };

    const fn encode(self) -> u64 {
        let tagged = match self.contents {
            Contents::Zeros => 0,
            Contents::Tag => TAGGED,
        };
        self.busy as u64
            | (self.permits as u64) << PERMITS_SHIFT
            | tagged
            | (self.written as u64) << WRITTEN_SHIFT
            | (self.version as u64) << VERSION_SHIFT
    }

    fn decode(word: u64) -> PageState {
        PageState {
            permits: Permits::ALL[(word >> PERMITS_SHIFT & 3) as usize],
            contents: if word & TAGGED == 0 { Contents::Zeros } else { Contents::Tag },
            version: (word >> VERSION_SHIFT) as u32,
            written: (word >> WRITTEN_SHIFT & NUMBER) as u32,
            busy: word & BUSY != 0,
        }
    }

    /// The state after a change that keeps the contents.
    #[must_use]
    pub const fn permitting(self, permits: Permits) -> PageState {
        PageState { permits, version: self.version + 1, ..self }
    }

    /// The state after a change that leaves `contents`, written by that change.
    #[must_use]
    pub const fn holding(self, permits: Permits, contents: Contents) -> PageState {
        let version = self.version + 1;
        PageState { permits, contents, version, written: version, busy: self.busy }
    }
}

/// What a tag says about the page that it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionTag {
    /// The number of its space.
    pub space: u8,
    /// The number of the page in its space.
    pub page: u16,
    /// The version of its contents.
    pub written: u32,
}

const TAG: u64 = 0x4e6;

impl RegionTag {
    /// As it is in memory.
    #[must_use]
    pub const fn encode(self) -> u64 {
        TAG << 52 | (self.space as u64 & 15) << 48 | (self.page as u64) << 32 | self.written as u64
    }

    /// The tag that `word` is, if it is one.
    #[must_use]
    pub const fn decode(word: u64) -> Option<RegionTag> {
        if word >> 52 != TAG {
            return None;
        }
        Some(RegionTag { space: (word >> 48 & 15) as u8, page: (word >> 32) as u16, written: word as u32 })
    }
}

/// Why a program's access was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The page belongs to no region.
    NotMapped,
    /// The page's region does not permit it.
    Denied,
    /// There is no memory for the page.
    OutOfFrames,
    /// Anything else: nothing in the scenario leads to it.
    Unexpected,
}

impl From<FaultError> for Refusal {
    fn from(error: FaultError) -> Refusal {
        match error {
            FaultError::NotMapped => Refusal::NotMapped,
            FaultError::Denied => Refusal::Denied,
            FaultError::OutOfFrames(_) => Refusal::OutOfFrames,
            _ => Refusal::Unexpected,
        }
    }
}

/// What an access of a page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nothing wrong.
    Fine,
    /// Contents from before those that it must hold.
    Stale(u64),
    /// Contents that nobody wrote to it.
    Foreign(u64),
    /// A translation of a page that permits no such access.
    Permitted,
    /// No access, though the page permits it.
    Refused,
}

/// A page of a space that all CPUs use.
#[derive(Debug)]
pub struct RegionPage {
    /// Its address.
    pub address: VirtAddr,
    /// The numbers of its space and of itself.
    name: (u8, u16),
    state: AtomicU64,
}

impl RegionPage {
    /// A page of no region.
    #[must_use]
    pub const fn new(space: u8, page: u16, address: VirtAddr) -> RegionPage {
        RegionPage { address, name: (space, page), state: AtomicU64::new(PageState::NEW.encode()) }
    }

    /// The state now.
    pub fn state(&self) -> PageState {
        // Acquire pairs with the Release in `publish`: who sees a state sees that its change is complete.
        PageState::decode(self.state.load(Ordering::Acquire))
    }

    /// Makes the caller the one that changes the page, if nobody is. Returns the state before.
    pub fn try_lock(&self) -> Option<PageState> {
        let word = self.state.load(Ordering::Relaxed);
        if word & BUSY != 0 {
            return None;
        }
        // Acquire as in `state`. A SeqCst fence would not help the readers: they look again afterwards.
        let locked = self.state.compare_exchange(word, word | BUSY, Ordering::AcqRel, Ordering::Relaxed);
        locked.ok().map(PageState::decode)
    }

    /// Says what the page is after a change that is complete: by the CPU that has locked it.
    pub fn publish(&self, state: PageState) {
        self.state.store(PageState { busy: false, ..state }.encode(), Ordering::Release);
    }

    /// The tag of its contents written by version `written`.
    #[must_use]
    pub const fn tag(&self, written: u32) -> u64 {
        RegionTag { space: self.name.0, page: self.name.1, written }.encode()
    }

    /// What a word that carries the tag holds in `state`.
    #[must_use]
    pub const fn expected(&self, state: PageState) -> u64 {
        match state.contents {
            Contents::Zeros => 0,
            Contents::Tag => self.tag(state.written),
        }
    }

    /// Judges a read of a word that carries the tag, between two looks at the page's state.
    #[must_use]
    pub fn judge_read(&self, before: PageState, after: PageState, outcome: Result<u64, Refusal>) -> Shown {
        let stable = before == after && !before.busy;
        match outcome {
            Ok(found) => self.judge_found(before, stable, found),
            Err(Refusal::OutOfFrames) => Shown::Fine,
            Err(Refusal::NotMapped) if before.permits == Permits::Vacant => Shown::Fine,
            Err(Refusal::Denied) if before.permits == Permits::Nothing => Shown::Fine,
            Err(_) if stable => Shown::Refused,
            Err(_) => Shown::Fine,
        }
    }

    fn judge_found(&self, before: PageState, stable: bool, found: u64) -> Shown {
        let expected = self.expected(before);
        if stable && matches!(before.permits, Permits::Vacant | Permits::Nothing) {
            return Shown::Permitted;
        }
        if found == expected {
            return Shown::Fine;
        }
        let own = RegionTag::decode(found).filter(|tag| (tag.space, tag.page) == self.name);
        match own {
            Some(tag) if tag.written < before.written => Shown::Stale(expected),
            _ if stable => Shown::Foreign(expected),
            _ => Shown::Fine,
        }
    }

    /// Judges a write, as [`RegionPage::judge_read`].
    #[must_use]
    pub fn judge_write(&self, before: PageState, after: PageState, outcome: Result<(), Refusal>) -> Shown {
        if before != after || before.busy {
            return Shown::Fine;
        }
        match (before.permits, outcome) {
            (_, Err(Refusal::OutOfFrames)) | (Permits::Writes, Ok(())) => Shown::Fine,
            (_, Ok(())) => Shown::Permitted,
            (Permits::Vacant, Err(Refusal::NotMapped)) => Shown::Fine,
            (Permits::Nothing | Permits::Reads, Err(Refusal::Denied)) => Shown::Fine,
            (_, Err(_)) => Shown::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_tags_survive_memory() {
        for permits in Permits::ALL {
            for contents in [Contents::Zeros, Contents::Tag] {
                let state = PageState { permits, contents, version: 77, written: 76, busy: true };
                assert_eq!(PageState::decode(state.encode()), state);
            }
        }
        let tag = RegionTag { space: 2, page: 63, written: 9 };
        assert_eq!(RegionTag::decode(tag.encode()), Some(tag));
        assert_eq!(RegionTag::decode(0), None);
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let page = RegionPage::new(1, 5, VirtAddr::new_truncate(0x1000));
        let new = page.try_lock().unwrap();
        assert_eq!(page.try_lock(), None);
        let zeros = new.holding(Permits::Writes, Contents::Zeros);
        let tagged = zeros.holding(Permits::Writes, Contents::Tag);
        let read = |before, after, found| page.judge_read(before, after, found);
        assert_eq!(read(new, new, Err(Refusal::NotMapped)), Shown::Fine);
        assert_eq!(read(new, new, Ok(0)), Shown::Permitted);
        assert_eq!(read(new, zeros, Ok(0)), Shown::Fine);
        assert_eq!(read(zeros, zeros, Ok(3)), Shown::Foreign(0));
        assert_eq!(read(zeros, zeros, Err(Refusal::NotMapped)), Shown::Refused);
        assert_eq!(read(tagged, tagged, Ok(page.tag(2))), Shown::Fine);
        assert_eq!(read(tagged, new, Ok(page.tag(1))), Shown::Stale(page.tag(2)));
        let read_only = tagged.permitting(Permits::Reads);
        assert_eq!(page.expected(read_only), page.tag(2));
        assert_eq!(page.judge_write(read_only, read_only, Ok(())), Shown::Permitted);
        assert_eq!(page.judge_write(read_only, read_only, Err(Refusal::Denied)), Shown::Fine);
        assert_eq!(page.judge_write(tagged, tagged, Err(Refusal::Denied)), Shown::Refused);
        assert_eq!(page.judge_write(tagged, read_only, Err(Refusal::Denied)), Shown::Fine);
    }
}
