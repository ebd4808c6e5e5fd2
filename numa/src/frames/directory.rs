//! From a frame to its region, without a search.

use super::region::Region;

/// At most so many parts.
const PARTS: u64 = 1 << 12;
/// Frames in a part at least: a GiB.
const LEAST_SHIFT: u32 = 18;

/// The regions, sorted and disjoint, and for each part of the address space the first of them
/// that reaches into it or lies behind it.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) regions: &'static [Region],
    parts: &'static [u8],
    /// Frames in a part, as a power of two.
    shift: u32,
}

/// How many parts, of how many frames (as a power of two), memory that ends with frame `end` has.
pub(super) fn parts(end: u64) -> (usize, u32) {
    let mut shift = LEAST_SHIFT;
    while end.div_ceil(1 << shift) > PARTS {
        shift += 1;
    }
    (end.div_ceil(1 << shift) as usize, shift)
}

/// What the part numbered `part` says: the number of a region.
pub(super) fn first_region(regions: &[Region], part: usize, shift: u32) -> u8 {
    let start = (part as u64) << shift;
    regions.partition_point(|region| region.span.end <= start) as u8
}

impl Directory {
    pub(super) fn new(regions: &'static [Region], parts: &'static [u8], shift: u32) -> Directory {
        Directory { regions, parts, shift }
    }

    /// The region of a frame.
    ///
    /// Bound: one load, and a look at each region that reaches into the frame's part of the
    /// address space, up to the right one: a GiB where memory ends below 4 TiB.
    #[inline]
    pub(crate) fn region_of(&self, frame: u64) -> Option<&'static Region> {
        let first = *self.parts.get((frame >> self.shift) as usize)?;
        let behind = self.regions.get(first.into()..)?;
        let region = behind.iter().find(|region| frame < region.span.end)?;
        (region.span.start <= frame).then_some(region)
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_are_few_wherever_memory_is() {
        assert_eq!(parts(1), (1, 18));
        assert_eq!(parts(1 << 18), (1, 18));
        assert_eq!(parts((1 << 18) + 1), (2, 18));
        assert_eq!(parts(1 << 30), (1 << 12, 18));
        assert_eq!(parts((1 << 30) + 1), ((1 << 11) + 1, 19));
        assert_eq!(parts(1 << 40), (1 << 12, 28));
    }
}
