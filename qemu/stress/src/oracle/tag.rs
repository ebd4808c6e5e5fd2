//! What the oracle writes into memory, so that whoever reads it knows where it came from.

use topomem::PhysFrame;

use super::Holder;

/// The first word of a page in a shared slot: which slot, and which version of its mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The slot's number over all spaces.
    pub slot: u16,
    /// The slot's version when the page was mapped.
    pub version: u32,
}

const TAG: u64 = 0x7a9;
const POISON: u64 = 0xdead;

impl Tag {
    /// As it is in memory.
    #[must_use]
    pub const fn encode(self) -> u64 {
        TAG << 52 | (self.slot as u64) << 32 | self.version as u64
    }

    /// The tag that `word` is, if it is one.
    #[must_use]
    pub const fn decode(word: u64) -> Option<Tag> {
        if word >> 52 != TAG || word >> 48 & 0xf != 0 {
            return None;
        }
        Some(Tag { slot: (word >> 32) as u16, version: word as u32 })
    }

    /// What replaces it once no CPU can have a translation to the page any more.
    #[must_use]
    pub const fn poison(self) -> u64 {
        POISON << 48 | (self.slot as u64) << 32 | self.version as u64
    }
}

/// What `holder` writes at byte `offset` of a frame it holds: differs by frame, place and holder.
#[must_use]
pub fn stamp(frame: PhysFrame, holder: Holder, offset: u16) -> u64 {
    let mixed = (frame.start_address().as_u64() + u64::from(offset)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ u64::from(holder.bits())).rotate_left(23) | 1
}

/// The byte that belongs at `offset` of a heap object that was filled under `seed`.
#[must_use]
pub const fn pattern(seed: u32, offset: u32) -> u8 {
    let mixed = (seed ^ offset.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    (mixed >> 24) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_memory_and_poison_is_none() {
        let tag = Tag { slot: 65535, version: u32::MAX };
        assert_eq!(Tag::decode(tag.encode()), Some(tag));
        assert_eq!(Tag::decode(tag.poison()), None);
        assert_eq!(Tag::decode(0), None);
    }

    #[test]
    fn patterns_differ_by_seed_and_place() {
        let line = |seed| core::array::from_fn::<u8, 16, _>(|offset| pattern(seed, offset as u32));
        assert_ne!(line(1), line(2));
        assert_ne!(pattern(1, 0), pattern(1, 8));
    }
}
