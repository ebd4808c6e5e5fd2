//! What a page holds.

use crate::log::operation::{OFFSETS, PAGE, Sample};

/// The bytes at [`OFFSETS`].
pub(super) type Bytes = [u8; OFFSETS.len()];

/// The possible contents of a page: one, or a few where a system may choose.
///
/// A system may or may not have dropped a page after `MADV_FREE`, for example. What it shows later
/// decides which of the possible contents the page has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    possible: Vec<Bytes>,
}

impl Content {
    pub(super) fn zero() -> Content {
        Content { possible: vec![[0; OFFSETS.len()]] }
    }

    /// Returns the byte at `sample`: the one that was `seen` if that is possible.
    pub(super) fn read(&mut self, sample: Sample, seen: Option<u8>) -> u8 {
        let index = usize::from(sample.0) % OFFSETS.len();
        if self.possible.iter().any(|bytes| Some(bytes[index]) == seen) {
            self.possible.retain(|bytes| Some(bytes[index]) == seen);
        }
        self.possible[0][index]
    }

    /// Returns all bytes: those that were `seen` if that is possible.
    pub(super) fn view(&mut self, seen: Option<Bytes>) -> Bytes {
        if self.possible.iter().any(|&bytes| Some(bytes) == seen) {
            self.possible.retain(|&bytes| Some(bytes) == seen);
        }
        self.possible[0]
    }

    pub(super) fn write(&mut self, sample: Sample, value: u8) {
        self.each(|bytes| bytes[usize::from(sample.0) % OFFSETS.len()] = value);
    }

    /// Clears the bytes from `offset` on.
    pub(super) fn clear_from(&mut self, offset: u64) {
        self.each(|bytes| clear_from(bytes, offset));
    }

    /// Makes it possible that the bytes from `offset` on are zero.
    pub(super) fn may_clear_from(&mut self, offset: u64) {
        let mut cleared = self.clone();
        cleared.clear_from(offset);
        for bytes in cleared.possible {
            if !self.possible.contains(&bytes) {
                self.possible.push(bytes);
            }
        }
    }

    fn each(&mut self, change: impl Fn(&mut Bytes)) {
        let mut possible: Vec<Bytes> = Vec::with_capacity(self.possible.len());
        for mut bytes in self.possible.drain(..) {
            change(&mut bytes);
            if !possible.contains(&bytes) {
                possible.push(bytes);
            }
        }
        self.possible = possible;
    }
}

fn clear_from(bytes: &mut Bytes, offset: u64) {
    debug_assert!(offset <= PAGE);
    for (byte, at) in bytes.iter_mut().zip(OFFSETS) {
        if at >= offset {
            *byte = 0;
        }
    }
}
