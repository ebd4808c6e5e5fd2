//! What can go wrong in the heap, with the facts.

use core::fmt;

use crate::{CpuId, NodeId, Order, OutOfMemory, RunLength, SizeClass};

/// Why [`Heap::alloc`](crate::Heap::alloc) returned no memory. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocError {
    /// Nothing is left that this context can reach: the page source has no pages, and no slab has a
    /// free object. Objects in other CPUs' magazines, and on lists that a context is using which
    /// this one interrupted, are out of reach. Other CPUs were asked to return theirs
    /// ([`Heap::reclaim`](crate::Heap::reclaim)), so a later call may succeed.
    OutOfMemory,
    /// Larger, or more strictly aligned, than the largest run of pages (1 GiB).
    TooLarge {
        /// The bytes asked for.
        size: usize,
        /// The alignment asked for.
        align: usize,
    },
    /// The page source broke its promise: its run is not aligned as asked. The run went back to the
    /// source unused.
    MisalignedRun {
        /// The run's address.
        address: usize,
        /// The order to whose size the run was to be aligned.
        order: Order,
    },
}

impl From<OutOfMemory> for AllocError {
    fn from(_: OutOfMemory) -> AllocError {
        AllocError::OutOfMemory
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::OutOfMemory => f.write_str("out of memory"),
            AllocError::TooLarge { size, align } => {
                write!(f, "{size} bytes aligned to {align} exceed the largest run of pages")
            }
            AllocError::MisalignedRun { address, order } => {
                write!(f, "the page source gave {address:#x} for a run aligned to {} bytes", order.bytes())
            }
        }
    }
}

impl core::error::Error for AllocError {}

/// A free that the heap refused: the memory stays as it was. Addresses are plain numbers, for a
/// report; nothing can be reached through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidFree {
    /// No slab of the layout's size class holds this address: the pointer, or the layout, is not
    /// the one that was allocated.
    NotInSlab {
        /// The address freed.
        address: usize,
        /// The class that the layout asks for.
        class: SizeClass,
    },
    /// The address lies inside an object, not at its start.
    InsideObject {
        /// The address freed.
        address: usize,
        /// The class of the object.
        class: SizeClass,
    },
    /// The object is free already.
    DoubleFree {
        /// The address freed.
        address: usize,
        /// The class of the object.
        class: SizeClass,
    },
    /// The large object at the address is free already: a CPU keeps its run for the next one.
    LargeDoubleFree {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
    },
    /// No large object starts at the address: it is free already, or never was one.
    NotLarge {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
    },
    /// No allocation starts at the address. Only frees by address ([`Heap::dealloc_by_address`]) are
    /// refused so.
    ///
    /// [`Heap::dealloc_by_address`]: crate::Heap::dealloc_by_address
    NotAllocated {
        /// The address freed.
        address: usize,
    },
    /// The large object at the address is of another size than the layout.
    WrongSize {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
        /// The length of the run that the object has.
        length: RunLength,
    },
    /// The large object at the address, a range of the page source's, is of another size than the layout.
    WrongRange {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
        /// How many 4 KiB pages the range has.
        pages: u64,
    },
    /// The object was allocated with another layout. Found by [`Measure::RedZones`](crate::Measure).
    #[cfg(feature = "hardening")]
    OtherLayout {
        /// The address freed.
        address: usize,
        /// The bytes with which it was allocated.
        size: usize,
        /// The alignment with which it was allocated.
        align: usize,
    },
    /// Memory beside the object was written to, or the object is a large one and was allocated with
    /// another layout. The object stays out, so its memory is not used any more. Found by
    /// [`Measure::RedZones`](crate::Measure).
    #[cfg(feature = "hardening")]
    Overwritten {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
        /// Where the first byte is that was written to, in bytes from the address.
        offset: isize,
    },
}

#[cfg(feature = "hardening")]
impl InvalidFree {
    /// The address freed.
    #[must_use]
    pub const fn address(&self) -> usize {
        match *self {
            InvalidFree::NotInSlab { address, .. }
            | InvalidFree::InsideObject { address, .. }
            | InvalidFree::DoubleFree { address, .. }
            | InvalidFree::LargeDoubleFree { address, .. }
            | InvalidFree::NotLarge { address, .. }
            | InvalidFree::NotAllocated { address }
            | InvalidFree::WrongSize { address, .. }
            | InvalidFree::WrongRange { address, .. }
            | InvalidFree::OtherLayout { address, .. }
            | InvalidFree::Overwritten { address, .. } => address,
        }
    }
}

impl fmt::Display for InvalidFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidFree::NotInSlab { address, class } => {
                write!(f, "free of {address:#x}: no slab of {class} there")
            }
            InvalidFree::InsideObject { address, class } => {
                write!(f, "free of {address:#x}: inside an object of {class}")
            }
            InvalidFree::DoubleFree { address, class } => {
                write!(f, "double free of {address:#x} of {class}")
            }
            InvalidFree::LargeDoubleFree { address, size } => {
                write!(f, "double free of {address:#x} of {size} bytes")
            }
            InvalidFree::NotLarge { address, size } => {
                write!(f, "free of {size} bytes at {address:#x}: no large object starts there")
            }
            InvalidFree::NotAllocated { address } => {
                write!(f, "free of {address:#x}: no allocation starts there")
            }
            InvalidFree::WrongSize { address, size, length } => {
                let bytes = length.bytes();
                write!(f, "free of {size} bytes at {address:#x}: that object has a run of {bytes} bytes")
            }
            InvalidFree::WrongRange { address, size, pages } => {
                write!(f, "free of {size} bytes at {address:#x}: that object has {pages} pages")
            }
            #[cfg(feature = "hardening")]
            InvalidFree::OtherLayout { address, size, align } => {
                write!(f, "free of {address:#x} with another layout than that object's: ")?;
                write!(f, "{size} bytes aligned to {align}")
            }
            #[cfg(feature = "hardening")]
            InvalidFree::Overwritten { address, size, offset } => {
                write!(f, "free of {size} bytes at {address:#x}: ")?;
                write!(f, "memory {offset} bytes from there was overwritten")
            }
        }
    }
}

impl core::error::Error for InvalidFree {}

/// Why [`Heap::realloc`](crate::Heap::realloc) did not change an allocation, which is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReallocError {
    /// There is no memory of the new size. Only for sizes that the memory does not have where
    /// it is.
    Alloc(AllocError),
    /// The memory, or its layout, is not one that was allocated.
    Invalid(InvalidFree),
}

impl From<AllocError> for ReallocError {
    fn from(error: AllocError) -> ReallocError {
        ReallocError::Alloc(error)
    }
}

impl From<InvalidFree> for ReallocError {
    fn from(invalid: InvalidFree) -> ReallocError {
        ReallocError::Invalid(invalid)
    }
}

impl fmt::Display for ReallocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReallocError::Alloc(error) => error.fmt(f),
            ReallocError::Invalid(invalid) => invalid.fmt(f),
        }
    }
}

impl core::error::Error for ReallocError {}

/// A list or counter of the heap that contradicts another, found by
/// [`Heap::validate`](crate::Heap::validate).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corruption {
    /// The lists of this class are in use and did not come free; nothing is known to be wrong.
    Busy {
        /// The node.
        node: NodeId,
        /// The class.
        class: SizeClass,
    },
    /// A slab's header does not name the node and class that list it.
    StraySlab {
        /// Address of the slab.
        slab: usize,
        /// The node that lists it.
        node: NodeId,
        /// The class that lists it.
        class: SizeClass,
    },
    /// A slab's free list and its count of free objects differ, or the list leaves the slab.
    FreeList {
        /// Address of the slab.
        slab: usize,
        /// Its count of free objects.
        counted: usize,
        /// The objects found before the list ended or went astray.
        found: usize,
    },
    /// A slab is on the wrong list for its number of free objects.
    WrongList {
        /// Address of the slab.
        slab: usize,
        /// Its count of free objects.
        free: usize,
    },
    /// A class's totals differ from what its slabs add up to.
    Totals {
        /// The node.
        node: NodeId,
        /// The class.
        class: SizeClass,
        /// Slabs counted by the class.
        counted_slabs: usize,
        /// Slabs found on its lists.
        found_slabs: usize,
        /// Free objects counted by the class.
        counted_free: usize,
        /// Free objects found in its slabs.
        found_free: usize,
    },
    /// A CPU's list of cached runs and its count differ, or the list leaves the runs that are
    /// recorded as cached.
    CachedRuns {
        /// The CPU.
        cpu: CpuId,
        /// The length of the runs.
        length: RunLength,
        /// The count.
        counted: u32,
        /// The runs found before the list ended or went astray.
        found: u32,
    },
    /// A CPU's count of pages of cached runs is not what its runs add up to, or more than the limit.
    CachedPages {
        /// The CPU.
        cpu: CpuId,
        /// The count.
        counted: u32,
        /// The pages of the runs on its lists.
        found: u32,
    },
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Corruption {}
