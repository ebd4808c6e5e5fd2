//! Size classes.

use core::alloc::Layout;
use core::fmt;

/// The number of size classes.
pub const CLASS_COUNT: usize = SIZES.len();

/// Bytes of the largest class; larger objects are runs of pages.
pub const MAX_CLASS_SIZE: usize = 16 * 1024;

/// Bytes of an object of each class.
///
/// Powers of two are classes, for alignments. Between 512 bytes and 4 KiB, the further sizes are
/// chosen so that few objects fill a slab behind its header: two of 1984 bytes fill a page, and two
/// of 4032 bytes fill two. A slab of few objects soon has no live objects, so a heap with few live
/// bytes returns most of its pages.
const SIZES: [u16; 48] = [
    8, 16, 24, 32, 40, 48, 56, 64, //
    80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, //
    576, 656, 784, 896, 992, 1024, //
    1152, 1344, 1472, 1600, 1792, 1984, 2048, //
    2320, 2688, 2960, 3248, 3616, 4032, 4096, //
    5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384,
];

/// A size served by slabs: 8, 16, ... 64 bytes, then 40 more up to 16 KiB. A request of more than
/// 64 bytes wastes under a fifth of its object, and a request of 513 to 4096 bytes under a sixth.
// Holds the class's number times 64, which is where the class's cache line is in a CPU's cell: a hit shifts nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeClass(u16);

/// The number of bits by which a [`SizeClass`] holds its number shifted.
const SHIFT: u32 = 6;
const _: () = assert!(CLASS_COUNT << SHIFT <= u16::MAX as usize);

impl SizeClass {
    /// The class of [`MAX_CLASS_SIZE`] bytes.
    pub(crate) const LARGEST: SizeClass = SizeClass::numbered(CLASS_COUNT - 1);

    /// Returns the class numbered `index`, which is below [`CLASS_COUNT`].
    pub(super) const fn numbered(index: usize) -> SizeClass {
        SizeClass((index << SHIFT) as u16)
    }

    /// Returns the class numbered `index`, or `None` if `index` is not below [`CLASS_COUNT`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CLASS_COUNT, SizeClass};
    /// assert_eq!(SizeClass::new(0).unwrap().size(), 8);
    /// assert_eq!(SizeClass::new(CLASS_COUNT), None);
    /// ```
    #[must_use]
    pub const fn new(index: usize) -> Option<SizeClass> {
        if index < CLASS_COUNT { Some(SizeClass::numbered(index)) } else { None }
    }

    /// Returns all classes, by size.
    ///
    /// ```
    /// use topomem_percpu::{CLASS_COUNT, SizeClass};
    ///
    /// assert_eq!(SizeClass::all().count(), CLASS_COUNT);
    /// ```
    pub fn all() -> impl Iterator<Item = SizeClass> {
        // For loom the two largest only: a look at a class has a dozen places to switch threads.
        let first = if cfg!(loom) { CLASS_COUNT - 2 } else { 0 };
        (first..CLASS_COUNT).map(SizeClass::numbered)
    }

    /// Returns the smallest class whose objects have the size and the alignment of `layout`, or
    /// `None` if it needs its own pages.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::SizeClass;
    /// let class = SizeClass::of(Layout::new::<[u8; 65]>()).unwrap();
    /// assert_eq!((class.size(), class.align()), (80, 16));
    /// assert_eq!(SizeClass::of(Layout::new::<[u8; 20_000]>()), None);
    /// ```
    #[must_use]
    #[inline]
    pub const fn of(layout: Layout) -> Option<SizeClass> {
        // Every class is aligned to a word.
        if layout.align() <= WORD {
            let size = layout.size();
            return if size <= MAX_CLASS_SIZE { Some(SizeClass::for_size(size)) } else { None };
        }
        // Rounding the size up to the alignment skips most classes that are large enough but not
        // aligned. Powers of two are classes, so the search ends within a doubling.
        let align = layout.align();
        if layout.size() > MAX_CLASS_SIZE || align > MAX_CLASS_SIZE {
            return None;
        }
        let size = (layout.size() + align - 1) & !(align - 1);
        if size > MAX_CLASS_SIZE {
            return None;
        }
        let mut class = SizeClass::for_size(size);
        while class.align() < align {
            class = SizeClass::numbered(class.index() + 1);
        }
        Some(class)
    }

    /// Returns the class as [`SizeClass::of`] does, for the most common sizes, 1 byte to 4 KiB, if
    /// the layout is aligned to a word at most: see [`is_aligned_to_words`].
    #[inline(always)]
    pub(crate) const fn of_small_size(size: usize) -> Option<SizeClass> {
        // Wraps for zero bytes, and is then too large.
        let last = size.wrapping_sub(1);
        if last >= SMALL { None } else { Some(BY_WORDS[last / WORD]) }
    }

    /// Returns the class as [`SizeClass::of`] does, for objects above the small classes, aligned to
    /// a word at most.
    #[inline]
    pub(crate) const fn of_medium(layout: Layout) -> Option<SizeClass> {
        // Wraps for small sizes, and is then too large.
        let above = layout.size().wrapping_sub(SMALL + 1);
        if above >= MAX_CLASS_SIZE - SMALL || layout.align() > WORD {
            return None;
        }
        Some(BY_STEPS[(above + SMALL) / STEP])
    }

    /// Returns the smallest class of at least `size` bytes, which is at most [`MAX_CLASS_SIZE`].
    #[inline]
    const fn for_size(size: usize) -> SizeClass {
        let last = size.saturating_sub(1);
        if last < SMALL { BY_WORDS[last / WORD] } else { BY_STEPS[last / STEP] }
    }

    /// Finds the class for the tables of [`SizeClass::for_size`].
    const fn find(size: usize) -> SizeClass {
        let mut class = 0;
        while (SIZES[class] as usize) < size {
            class += 1;
        }
        SizeClass::numbered(class)
    }

    /// Returns the number, always below [`CLASS_COUNT`].
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        let shifted = self.0 as usize;
        // SAFETY: `numbered`, the only source, shifts the number, which its callers keep below `CLASS_COUNT`
        // (`find` is called with at most `MAX_CLASS_SIZE`). Asserted here to spare the bounds check
        // of arrays of classes, and the shifts where an element has the shift's size.
        unsafe {
            core::hint::assert_unchecked(shifted < CLASS_COUNT << SHIFT);
            core::hint::assert_unchecked(shifted.is_multiple_of(1 << SHIFT));
        }
        shifted >> SHIFT
    }

    /// Returns the bytes of an object.
    ///
    /// ```
    /// use topomem_percpu::{MAX_CLASS_SIZE, SizeClass};
    ///
    /// assert_eq!(SizeClass::all().map(SizeClass::size).max(), Some(MAX_CLASS_SIZE));
    /// ```
    #[must_use]
    #[inline]
    pub const fn size(self) -> usize {
        SIZES[self.index()] as usize
    }

    /// Returns every object's alignment in bytes: the largest power of two that divides the size.
    #[must_use]
    pub const fn align(self) -> usize {
        1 << self.size().trailing_zeros()
    }

    /// Returns the layout of all of an object's bytes, aligned to a word.
    #[must_use]
    pub(crate) const fn layout(self) -> Layout {
        // SAFETY: a word is a power of two, and no size comes near the maximum.
        unsafe { Layout::from_size_align_unchecked(self.size(), WORD) }
    }

    /// Returns the number of objects in a magazine of the class: about 20 KiB worth, 2 to 256.
    #[must_use]
    pub const fn rounds(self) -> usize {
        ROUNDS[self.index()] as usize
    }

    const fn computed_rounds(self) -> usize {
        let rounds = 20 * 1024 / self.size();
        if rounds < 2 {
            2
        } else if rounds > crate::magazine::MAX_ROUNDS {
            crate::magazine::MAX_ROUNDS
        } else {
            rounds
        }
    }
}

/// Bytes to which every class is aligned.
const WORD: usize = 8;

/// Sizes up to this have a table by words. Larger classes are multiples of [`STEP`]. A mix of sizes below and above
/// costs a mispredicted branch for each change, so the table covers the sizes that programs mix.
const SMALL: usize = 4096;
const STEP: usize = 16;

/// The class of each number of words up to [`SMALL`] bytes, from one on.
static BY_WORDS: [SizeClass; SMALL / WORD] = by_multiples::<{ SMALL / WORD }>(WORD);
/// The class of each number of steps, from one on.
static BY_STEPS: [SizeClass; MAX_CLASS_SIZE / STEP] = by_multiples::<{ MAX_CLASS_SIZE / STEP }>(STEP);

const fn by_multiples<const COUNT: usize>(step: usize) -> [SizeClass; COUNT] {
    let mut classes = [SizeClass::numbered(0); COUNT];
    let mut index = 0;
    while index < COUNT {
        classes[index] = SizeClass::find((index + 1) * step);
        index += 1;
    }
    classes
}

/// [`SizeClass::rounds`] of each class, as a table: a free compares with it, and should not divide.
const ROUNDS: [u16; CLASS_COUNT] = {
    let mut rounds = [0; CLASS_COUNT];
    let mut index = 0;
    while index < CLASS_COUNT {
        rounds[index] = SizeClass::numbered(index).computed_rounds() as u16;
        index += 1;
    }
    rounds
};

/// Returns true if the layout is aligned to a word at most, as objects of every class are.
#[inline(always)]
pub(crate) const fn is_aligned_to_words(layout: Layout) -> bool {
    layout.align() <= WORD
}

impl fmt::Debug for SizeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "class of {} bytes", self.size())
    }
}

impl fmt::Display for SizeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_layout_gets_the_smallest_class_that_fits() {
        for size in 1..=MAX_CLASS_SIZE {
            for align in (0..=if cfg!(miri) { 3 } else { 14 }).map(|log| 1 << log) {
                let layout = Layout::from_size_align(size, align).unwrap();
                let fits = |class: &SizeClass| class.size() >= size && class.size().is_multiple_of(align);
                let class = SizeClass::of(layout);
                assert_eq!(class, SizeClass::all().find(fits), "{layout:?}");
                let small = SizeClass::of_small_size(size).filter(|_| is_aligned_to_words(layout));
                let medium = SizeClass::of_medium(layout);
                let [if_small, if_medium] =
                    [size <= SMALL, size > SMALL].map(|is| class.filter(|_| is && align <= WORD));
                assert_eq!((small, medium), (if_small, if_medium), "{layout:?}");
            }
            if cfg!(miri) && size > 40 {
                break;
            }
        }
    }

    #[test]
    fn what_no_class_holds_gets_none() {
        for (size, align) in [(MAX_CLASS_SIZE + 1, 1), (1, 2 * MAX_CLASS_SIZE), (isize::MAX as usize, 1)] {
            let layout = Layout::from_size_align(size, align).unwrap();
            assert_eq!((SizeClass::of(layout), SizeClass::of_medium(layout)), (None, None));
        }
    }

    #[test]
    fn little_is_wasted() {
        let sizes: std::vec::Vec<usize> = SizeClass::all().map(SizeClass::size).collect();
        assert_eq!((sizes[0], sizes[CLASS_COUNT - 1]), (8, MAX_CLASS_SIZE));
        for pair in sizes.windows(2).filter(|pair| pair[0] >= 64) {
            // The worst request for the larger class is one byte more than the smaller.
            assert!((pair[1] - pair[0] - 1) * 5 < pair[1], "{pair:?}");
        }
        for pair in sizes.windows(2).filter(|pair| pair[0] >= 512 && pair[1] <= 4096) {
            assert!((pair[1] - pair[0] - 1) * 6 < pair[1], "{pair:?}");
        }
        assert!(SizeClass::all().all(|class| class.rounds() >= 2));
    }
}
