//! The placement of regions without a fixed place.

use crate::page_table::Pages;

/// The pages of the lower half for regions without a fixed place. Each CPU has its own part, so
/// CPUs mapping and unmapping write neither the same tables nor the same hints.
///
/// The parts lie below each other, from the top down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceLayout {
    /// The page above all regions without a fixed place.
    top: u64,
}

/// Number of pages of a CPU's part: 16 GiB.
const PART: u64 = 1 << 22;

/// Number of pages left for stacks above: at least 64 GiB.
const ABOVE: u64 = 1 << 24;

/// log2 of the number of pages over which [`SpaceLayout::randomized`] spreads the top: 28 bits, 1
/// TiB.
const SPREAD_BITS: u32 = 28;

impl SpaceLayout {
    /// Number of bits of a seed used for the placement of regions.
    pub const ENTROPY_BITS: u32 = SPREAD_BITS;

    pub(crate) const fn below(bounds: Pages) -> SpaceLayout {
        SpaceLayout { top: bounds.last + 1 - ABOVE }
    }

    /// Returns the layout with the top lowered by the low [`SpaceLayout::ENTROPY_BITS`] bits of
    /// `seed`, in pages.
    #[must_use]
    pub(crate) const fn randomized(self, seed: u64) -> SpaceLayout {
        SpaceLayout { top: self.top - (seed & ((1 << SPREAD_BITS) - 1)) }
    }

    /// Returns the pages of the CPU with this number.
    pub(crate) const fn part(self, cpu: usize) -> Pages {
        let end = self.top - PART * cpu as u64;
        Pages { first: end - PART, last: end - 1 }
    }

    /// Returns the number of the CPU whose part contains `page`, if parts extend to the page.
    pub(crate) const fn part_of(self, page: u64) -> Option<usize> {
        match self.top.checked_sub(page + 1) {
            Some(below) => Some((below / PART) as usize),
            None => None,
        }
    }

    /// Returns the pages below the parts of `cpus` CPUs.
    pub(crate) const fn common(self, cpus: usize, bounds: Pages) -> Pages {
        Pages { first: bounds.first, last: self.part(cpus - 1).first - 1 }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn each_bit_of_a_seed_moves_regions() {
        const { assert!(SpaceLayout::ENTROPY_BITS >= 28) };
        let plain = SpaceLayout::below(Pages { first: 0, last: (1 << 35) - 1 });
        assert_eq!(plain.randomized(0), plain);
        for bit in 0..SpaceLayout::ENTROPY_BITS {
            let moved = plain.randomized(1 << bit);
            assert_eq!(plain.part(0).first - moved.part(0).first, 1 << bit);
        }
        assert_eq!(plain.randomized(1 << SpaceLayout::ENTROPY_BITS), plain, "no further bit");
    }
}
