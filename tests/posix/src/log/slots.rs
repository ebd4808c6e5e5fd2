//! From the addresses of a log to those of a system.

use std::ops::Range;

use crate::log::operation::{At, Break, Call, Map, PAGE, Place, Placement};

/// Pages of the window.
pub const WINDOW_PAGES: u64 = 1024;
/// Pages above the heap's start that belong to the log.
pub const HEAP_PAGES: u64 = 64;
/// Slots for addresses that the system chooses.
pub const SLOTS: usize = 16;
/// The first address that no program has.
pub const TOP: u64 = 0x7fff_ffff_f000;

/// Where a system has put what every log uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The window's first address.
    pub window: u64,
    /// The heap's start: the break when the log begins.
    pub heap: u64,
}

impl Layout {
    /// Returns the window's addresses.
    pub fn window(&self) -> Range<u64> {
        self.window..self.window + WINDOW_PAGES * PAGE
    }

    /// Returns the addresses above the heap's start that belong to the log.
    pub fn heap(&self) -> Range<u64> {
        self.heap..self.heap + HEAP_PAGES * PAGE
    }
}

/// The layout of a system, and the addresses that it has chosen so far.
#[derive(Debug, Clone, Copy)]
pub struct Slots {
    /// The layout.
    pub layout: Layout,
    chosen: [Range2; SLOTS],
}

/// A range that is `Copy`.
#[derive(Debug, Clone, Copy, Default)]
struct Range2 {
    start: u64,
    end: u64,
}

impl Slots {
    /// Returns empty slots.
    pub fn new(layout: Layout) -> Slots {
        Slots { layout, chosen: [Range2::default(); SLOTS] }
    }

    /// Returns the ranges that an inspection covers.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let chosen = self.chosen.map(|slot| slot.start..slot.end);
        [self.layout.window(), self.layout.heap()]
            .into_iter()
            .chain(chosen.into_iter().filter(|r| !r.is_empty()))
    }

    /// Returns the address of `at`.
    ///
    /// A page beyond the end of a slot's mapping is taken modulo the mapping's length, and an empty slot is
    /// page 0 of the window: what lies beyond belongs to somebody else.
    pub fn address(&self, at: At) -> u64 {
        let base = match at.place {
            Place::Window(page) => self.layout.window + u64::from(page) * PAGE,
            Place::Heap(page) => self.layout.heap + u64::from(page) * PAGE,
            Place::Raw(address) => address,
            Place::Slot(slot, page) => {
                let Range2 { start, end } = self.chosen[usize::from(slot) % SLOTS];
                match (end - start) / PAGE {
                    0 => self.layout.window,
                    pages => start + u64::from(page) % pages * PAGE,
                }
            }
        };
        base.wrapping_add(u64::from(at.byte))
    }

    /// Returns the bytes that `length` bytes from `at` on keep: at most those up to the end of the slot's
    /// mapping.
    fn clipped(&self, at: At, length: u64) -> u64 {
        match at.place {
            Place::Slot(slot, _) if self.chosen[usize::from(slot) % SLOTS].end != 0 => {
                let end = self.chosen[usize::from(slot) % SLOTS].end;
                length.min(end - self.address(at))
            }
            _ => length,
        }
    }

    /// Returns `call` with the system's addresses.
    pub fn resolve(&self, call: &Call<At>) -> Call<u64> {
        let range = |at: At, length: u64| (self.address(at), self.clipped(at, length));
        match *call {
            Call::Map(Map {
                placement,
                length,
                protection,
                sharing,
                source,
                offset,
                grows_down,
                populate,
                slot,
            }) => {
                let (placement, length) = match placement {
                    Placement::Anywhere => (Placement::Anywhere, length),
                    Placement::Hint(at) => (Placement::Hint(self.address(at)), length),
                    Placement::Fixed(at) => (Placement::Fixed(self.address(at)), self.clipped(at, length)),
                    Placement::Unoccupied(at) => {
                        (Placement::Unoccupied(self.address(at)), self.clipped(at, length))
                    }
                };
                Call::Map(Map {
                    placement,
                    length,
                    protection,
                    sharing,
                    source,
                    offset,
                    grows_down,
                    populate,
                    slot,
                })
            }
            Call::Unmap { at, length } => {
                let (at, length) = range(at, length);
                Call::Unmap { at, length }
            }
            Call::Protect { at, length, protection } => {
                let (at, length) = range(at, length);
                Call::Protect { at, length, protection }
            }
            Call::Remap { at, old, new, flags, to, slot } => {
                let (at, old) = range(at, old);
                Call::Remap { at, old, new, flags, to: to.map(|to| self.address(to)), slot }
            }
            Call::Advise { at, length, advice } => {
                let (at, length) = range(at, length);
                Call::Advise { at, length, advice }
            }
            Call::Break(to) => Call::Break(to),
            Call::Sync { at, length, flags } => {
                let (at, length) = range(at, length);
                Call::Sync { at, length, flags }
            }
            Call::Resident { at, length, vector } => {
                let (at, length) = range(at, length);
                Call::Resident { at, length, vector }
            }
            Call::Lock { at, length } => {
                let (at, length) = range(at, length);
                Call::Lock { at, length }
            }
            Call::Unlock { at, length } => {
                let (at, length) = range(at, length);
                Call::Unlock { at, length }
            }
            Call::WriteFile { file, position, value } => Call::WriteFile { file, position, value },
            Call::ReadFile { file, position } => Call::ReadFile { file, position },
            Call::Truncate { file, length } => Call::Truncate { file, length },
        }
    }

    /// Returns the address that `brk` is asked for.
    pub fn break_address(&self, to: Break) -> u64 {
        match to {
            Break::Above(bytes) => self.layout.heap + bytes,
            Break::Below => 1,
            Break::TooHigh => TOP + PAGE,
        }
    }

    /// Remembers the address that the system has answered to `call`, if the system chose it.
    pub fn adopt(&mut self, call: &Call<u64>, address: u64) {
        let (slot, length) = match *call {
            Call::Map(Map { placement: Placement::Anywhere | Placement::Hint(_), length, slot, .. }) => {
                (slot, length)
            }
            Call::Remap { new, to: None, slot, .. } => (slot, new),
            _ => return,
        };
        let is_known = |range: Range<u64>| range.contains(&address);
        if is_known(self.layout.window()) || is_known(self.layout.heap()) {
            return;
        }
        let end = address + length.next_multiple_of(PAGE);
        self.chosen[usize::from(slot) % SLOTS] = Range2 { start: address, end };
    }
}
