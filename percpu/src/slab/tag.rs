//! The tag in a slab's header: the slab's class and home.

use super::class::{CLASS_COUNT, SizeClass};
use crate::NodeId;

/// The class and the home of a slab, in one word for comparison with its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlabTag(usize);

impl SlabTag {
    /// Distinguishes a header from other memory. No address and no small number has these upper
    /// bits. The lower 12 and the upper [`NODE_TURN`](Self::NODE_TURN) are zero: they hold class and node.
    const MARK: usize = 0x0a51_ab6b_3d9e_2000;
    const CLASS_SHIFT: u32 = 6;
    const CLASS_BITS: u32 = 6;
    /// The number of the node's bits that are turned into the top of the word; the others are the lowest.
    const NODE_TURN: u32 = 4;
    const LOW: usize = (1 << (SlabTag::CLASS_SHIFT + SlabTag::CLASS_BITS)) - 1;
    const HIGH: usize = !(usize::MAX >> SlabTag::NODE_TURN);

    /// Returns the tag of `node`'s slabs of `class`.
    #[inline]
    pub(crate) const fn new(class: SizeClass, node: NodeId) -> SlabTag {
        let class = class.index() << SlabTag::CLASS_SHIFT;
        SlabTag((SlabTag::MARK + class) | node.index().rotate_right(SlabTag::NODE_TURN))
    }

    /// Returns the word in the header of a slab at `address`.
    #[inline]
    pub(super) const fn seal(self, address: usize) -> usize {
        self.0 ^ address
    }

    /// Returns the tag behind the word `seal` in the header of a slab at `address`.
    #[inline]
    pub(super) const fn sealed(seal: usize, address: usize) -> SlabTag {
        SlabTag(seal ^ address)
    }

    /// Returns the class and the node, or `None` if the word is no tag.
    pub(super) fn decode(self) -> Option<(SizeClass, NodeId)> {
        if self.0 & !(SlabTag::LOW | SlabTag::HIGH) != SlabTag::MARK {
            return None;
        }
        let class = (self.0 & SlabTag::LOW) >> SlabTag::CLASS_SHIFT;
        let low = self.0 & ((1 << SlabTag::CLASS_SHIFT) - 1);
        let node = NodeId::new((low | self.0 & SlabTag::HIGH).rotate_left(SlabTag::NODE_TURN))?;
        Some((SizeClass::new(class)?, node))
    }
}

const _: () = assert!(CLASS_COUNT <= 1 << SlabTag::CLASS_BITS);
const _: () = assert!(SlabTag::MARK & (SlabTag::LOW | SlabTag::HIGH) == 0);
// A copy of a slab elsewhere is none: slabs are aligned to pages, so two addresses differ in none of the lower 12 bits.
// Where they differ in the upper bits, they differ in a bit of the mark, too: addresses repeat their sign there.
const _: () = assert!(crate::MAX_NODES <= 1 << (SlabTag::CLASS_SHIFT + SlabTag::NODE_TURN));

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn nodes() -> impl Iterator<Item = NodeId> {
        (0..crate::MAX_NODES).filter_map(NodeId::new)
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic; no unsafe code")]
    fn a_tag_says_class_and_node() {
        let mut tags = std::collections::BTreeSet::new();
        for (node, class) in nodes().flat_map(|node| SizeClass::all().map(move |class| (node, class))) {
            let tag = SlabTag::new(class, node);
            assert_eq!(tag.decode(), Some((class, node)));
            assert!(tags.insert(tag.0), "{class:?} of {node} has the tag of another");
        }
    }

    /// Bytes that a slab left behind elsewhere, in either half of the address space, make no slab.
    #[test]
    #[cfg_attr(miri, ignore = "arithmetic; no unsafe code")]
    fn a_copied_header_is_none() {
        let at =
            [0x1000, 0x7f12_3456_7000, 0x00ff_ffff_ffff_f000, !0xfff, 0xffff_8000_0123_4000, 0xff00 << 48];
        for node in nodes() {
            let tag = SlabTag::new(SizeClass::LARGEST, node);
            for (from, to) in at.iter().flat_map(|&from| at.iter().map(move |&to| (from, to))) {
                let seen = SlabTag::sealed(tag.seal(from), to).decode();
                assert_eq!(seen.is_some(), from == to, "{node}: {from:#x} copied to {to:#x}");
            }
        }
    }

    /// No tag is an address, nor a small number.
    #[test]
    #[cfg_attr(miri, ignore = "arithmetic; no unsafe code")]
    fn a_tag_is_no_address() {
        for node in nodes() {
            let bits = SlabTag::new(SizeClass::LARGEST, node).0 as i64;
            assert_ne!(bits << 7 >> 7, bits, "{node}");
        }
    }
}
