//! The errors of the heap, with the facts.

use core::fmt;

use crate::{CpuId, NodeId, Order, OutOfMemory, RunLength, SizeClass};

/// An error of [`Heap::try_alloc`](crate::Heap::try_alloc). Nothing has changed.
///
/// ```
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// # use topomem_percpu::{Heap, Platform};
/// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
/// # let pin = Host.pin();
/// # HEAP.cpu_online(&pin)?;
/// use std::alloc::Layout;
/// use topomem_percpu::AllocError;
///
/// let huge = HEAP.try_alloc(Layout::from_size_align(1 << 40, 8)?);
/// assert!(matches!(huge, Err(AllocError::TooLarge { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocError {
    /// The context can reach no free memory: the page source has no pages, and no slab has a free
    /// object. Objects in remote CPUs' magazines, and on lists in use by an interrupted context,
    /// are out of reach. Remote CPUs were asked to return their objects
    /// ([`Heap::reclaim`](crate::Heap::reclaim)), so a later call may succeed.
    OutOfMemory,
    /// The request is larger, or more strictly aligned, than the largest run of pages (1 GiB).
    TooLarge {
        /// The requested bytes.
        size: usize,
        /// The requested alignment.
        align: usize,
    },
    /// The page source broke its promise: its run does not have the requested alignment. The run
    /// went back to the source unused.
    MisalignedRun {
        /// The run's address.
        address: usize,
        /// The order of the requested run.
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

/// A free that the heap refused: the memory stays as before. Addresses are plain numbers, for a
/// report, and give no access to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidFree {
    /// No slab of the layout's size class holds this address: the pointer or the layout differs
    /// from the allocation's.
    NotInSlab {
        /// The address freed.
        address: usize,
        /// The class of the layout.
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
    /// The large object at the address is free already: a CPU keeps its run for the next large
    /// object.
    LargeDoubleFree {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
    },
    /// No large object starts at the address: the object is free already, or never existed.
    NotLarge {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
    },
    /// No allocation starts at the address. Returned by frees by address
    /// ([`Heap::free_by_address`]) only.
    ///
    /// [`Heap::free_by_address`]: crate::Heap::free_by_address
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
        /// The length of the object's run.
        length: RunLength,
    },
    /// The large object at the address, a range of the page source, is of another size than the
    /// layout.
    WrongRange {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
        /// The number of 4 KiB pages of the range.
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
    /// Memory beside the object was written to, or the object is a large object allocated with
    /// another layout. The object is not freed, so its memory is never reused. Found by
    /// [`Measure::RedZones`](crate::Measure).
    #[cfg(feature = "hardening")]
    Overwritten {
        /// The address freed.
        address: usize,
        /// The bytes of the layout.
        size: usize,
        /// The position of the first overwritten byte, in bytes from the address.
        offset: isize,
    },
}

#[cfg(feature = "hardening")]
impl InvalidFree {
    /// Returns the address freed.
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

/// An error of [`Heap::try_realloc`](crate::Heap::try_realloc). The allocation is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReallocError {
    /// There is no memory of the new size. Occurs only if the memory cannot change its size in
    /// place.
    Alloc(AllocError),
    /// The memory, or its layout, does not match an allocation.
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
    /// The lists of the class stayed in use and were not checked; no fault is known.
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
        /// The objects found before the list ended or left the slab.
        found: usize,
    },
    /// A slab is on the wrong list for its number of free objects.
    WrongList {
        /// Address of the slab.
        slab: usize,
        /// Its count of free objects.
        free: usize,
    },
    /// A class's totals differ from the sums over its slabs.
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
    /// A CPU's list of cached runs and its count differ, or the list leaves the runs recorded as
    /// cached.
    CachedRuns {
        /// The CPU.
        cpu: CpuId,
        /// The length of the runs.
        length: RunLength,
        /// The count.
        counted: u32,
        /// The runs found before the list ended or left the recorded runs.
        found: u32,
    },
    /// A CPU's count of pages of cached runs differs from the sum over its runs, or exceeds the
    /// limit.
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
