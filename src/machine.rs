//! The kernel's hooks beyond the shootdown queue's: the page-table format, and the reaction to
//! misuse of the heap.

use topomem_percpu::{InvalidFree, PhysFrame};
use topomem_shootdown::{RootLoad, SwitchFlushed, Tlb};

use crate::page_table::{Format, PagingFeatures};

/// The executing CPU's memory-management unit. Kernels pass a zero-sized type, hosts a reference:
/// hence `Copy`.
///
/// # Safety
///
/// - `load_root` makes the executing CPU translate through the table at `root` from then on,
///   and says truly whether that flushed the translations that are not global; where
///   translations are tagged, it loads with [`Asid::KERNEL`](topomem_shootdown::Asid::KERNEL), and
///   says so of that one's.
/// - `load_tagged_root` loads as its [`RootLoad`] says.
/// - The hardware reads tables of [`Machine::Format`], and has what [`Machine::paging`] says.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{Machine, PagingFeatures};
///
/// // Of the simulated machine:
/// let features: PagingFeatures = service.platform().paging();
/// assert!(features.physical_bits() >= 32);
/// # let _ = pin;
/// # Ok(())
/// # }).unwrap();
/// ```
pub unsafe trait Machine: Tlb + Copy + Send + 'static {
    /// The layout of page tables.
    type Format: Format;

    /// What all CPUs' page walkers offer within the format. One load, or a constant: it is asked for at
    /// each mapping of frames that the service does not own, and each promotion.
    #[inline]
    fn paging(&self) -> PagingFeatures {
        PagingFeatures::BASIC
    }

    /// Loads the root of a page table (CR3, TTBR, satp).
    fn load_root(&self, root: PhysFrame) -> SwitchFlushed;

    /// Loads the root with an ASID, on machines with ASIDs
    /// ([`Tlb::features`](topomem_shootdown::Tlb::features)).
    #[inline]
    fn load_tagged_root(&self, root: PhysFrame, load: RootLoad) -> SwitchFlushed {
        let _ = load;
        self.load_root(root)
    }

    /// Reports a free or a change of size refused by [`KernelHeap`](crate::KernelHeap) as the
    /// global allocator, whose callers get no error. The memory has stayed as it was.
    ///
    /// Every build detects some wrong frees; builds with debug assertions or the `hardened` feature
    /// detect most ([`Heap::free`](topomem_percpu::Heap::free)). Runs at the end of the
    /// refused call, in its context, with no lock of topomem held.
    ///
    /// # Panics
    ///
    /// Panics with a description unless replaced by the kernel: the caller uses memory possibly
    /// owned by another by now.
    fn on_heap_misuse(&self, refused: InvalidFree) {
        panic!("{refused}");
    }

    /// Reports a wrong use of memory found by a heap made with
    /// [`KernelHeap::with_hardening`](crate::KernelHeap::with_hardening). A refused free is
    /// reported here first, and then returned as an error or reported to
    /// [`Machine::on_heap_misuse`].
    ///
    /// Runs at the end of the call with the finding, in its context, with no lock of topomem held.
    ///
    /// # Panics
    ///
    /// Panics with a description unless replaced by the kernel.
    #[cfg(feature = "hardening")]
    fn on_heap_report(&self, report: &topomem_percpu::Report) {
        panic!("{report}");
    }

    /// Names the caller of an allocation through the global allocator, for a heap with leak tracking: see
    /// [`PageSource::caller`](topomem_percpu::PageSource::caller). A kernel that is compiled with frame pointers
    /// walks them, and returns a return address, or the number of a backtrace that it keeps: between a `Box` and
    /// the global allocator are calls of Rust's library, as many as were not inlined. Not called at all for
    /// [`Heap::try_alloc`](topomem_percpu::Heap::try_alloc) and the like, which note the call in the source.
    ///
    /// Runs in the context that allocates, with no lock of topomem held, and may not allocate from the heap.
    #[cfg(feature = "leak-tracking")]
    fn heap_caller(&self) -> Option<topomem_percpu::Caller> {
        None
    }
}
