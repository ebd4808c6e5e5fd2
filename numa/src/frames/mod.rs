//! The frame allocator: bitmap blocks below 2 MiB, a buddy over whole blocks up to 1 GiB, and a
//! magazine per CPU in front.
//!
//! Memory of one node and zone is a *region* of 2 MiB *blocks*. Frames are free in exactly one
//! place: as a bit in their block's bitmap line, as part of a whole block in the buddy's line of
//! its GiB, in one CPU's magazine, or in their node's pool of zeroed frames. Nothing takes a lock.
//!
//! The code lies in rooms. Each room uses only rooms above it in this list.
//!
//! - `types`: requests, policies, zones, the configuration, errors, statistics.
//! - `region`: bitmaps, blocks and the buddy; marks; retired frames; transit.
//! - `fault`: faults to inject, and the fault points.
//! - `node`: zones and counters of a node, the node's pool of zeroed frames, turns of interleaving.
//! - `magazine`: a CPU's words and blocks, the gate, the table of magazines.
//! - `state`: the built allocator: nodes, directory, plans, watermarks, waiters.
//! - `ready`: the allocator once built, with its state: the receiver of the private half of the operations.
//! - `per_cpu`: frames between the CPU's magazine and the regions: hits, refills, flushes; hot-plug.
//! - `free` and `alloc`: the operations.
//! - `maintenance`: reclaim, retirement, the pools filled.
//! - `build`: construction from the boot memory. `diag`: statistics, validation.

#[cfg(feature = "x86_64")]
mod adapter;
mod alloc;
mod build;
mod diag;
mod fault;
mod free;
mod lookup;
mod magazine;
mod maintenance;
mod node;
mod page_source;
mod per_cpu;
mod ready;
mod region;
mod state;
mod types;

#[cfg(feature = "x86_64")]
pub use adapter::FrameSource;
pub use alloc::owned::OwnedFrames;
pub use alloc::placed::AllocAtError;
pub use alloc::resize::ResizeError;
pub use alloc::wait::AllocFuture;
pub use build::boot_memory::BootMemory;
pub use diag::bookkeeping::Bookkeeping;
pub use diag::validate::Corruption;
#[cfg(feature = "fault-injection")]
pub use fault::Fault;
pub use maintenance::reclaim::Reclaimed;
pub use maintenance::retire::{RetireError, Retired};
pub use per_cpu::cpu_hotplug::Drained;
pub use region::retired::Retirement;
pub use state::Metadata;
pub use state::frame_table::FrameInfo;
pub use types::{
    AllocError, DoubleFrees, FrameRequest, FramesConfig, FreeError, InitError, InvalidRequest, MagazineStats,
    NodeSet, NodeStats, Obstacle, OnlineError, PerFrameTable, Policy, Pressure, Totals, Watermarks,
    ZeroedFrames, ZeroedStats, Zeroing, Zone, ZoneLimits, ZoneStats, ZoneWatermarks,
};

use core::fmt;
use core::ptr;

use topomem_percpu::Platform;
use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use fault::Faults;
use magazine::table::MagazineTable;
use state::AllocatorState;
use state::waiters::Waiters;

/// All nodes' frame allocators, with a magazine per CPU in front.
///
/// Usable in a `static`: empty until [`Frames::init`] gives it memory. After that, every method may
/// be called on every CPU at any time.
///
/// # Examples
///
/// ```
/// # use topomem_numa::frames::{AllocError, FrameRequest, Frames};
/// # use topomem_percpu::{CpuId, PhysAddr, Platform};
/// # use std::ptr::NonNull;
/// struct Kernel;
///
/// // SAFETY: there is one CPU, and nothing preempts.
/// unsafe impl Platform for Kernel {
///     fn current_cpu(&self) -> CpuId {
///         CpuId::BOOT
///     }
///     fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
///         NonNull::new((0xffff_8000_0000_0000 + addr.as_u64()) as *mut u8).unwrap()
///     }
/// }
///
/// static FRAMES: Frames<Kernel> = Frames::new(Kernel);
///
/// // Before `Frames::init` there is no memory.
/// let early = FRAMES.alloc(&Kernel.pin(), &FrameRequest::frame());
/// assert_eq!(early, Err(AllocError::NotReady));
/// ```
pub struct Frames<P: Platform> {
    platform: P,
    magazines: MagazineTable,
    /// Null until built.
    state: AtomicPtr<AllocatorState>,
    /// True once a CPU has begun to build.
    building: AtomicBool,
    waiters: Waiters,
    faults: Faults,
}

macro_rules! empty {
    ($platform:expr) => {
        Frames {
            platform: $platform,
            magazines: MagazineTable::new(),
            state: AtomicPtr::new(ptr::null_mut()),
            building: AtomicBool::new(false),
            waiters: Waiters::new(),
            faults: Faults::new(),
        }
    };
}

impl<P: Platform> Frames<P> {
    /// Creates an allocator without memory, for a `static`; [`Frames::init`] gives it memory.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(platform: P) -> Frames<P> {
        empty!(platform)
    }

    /// Creates an allocator without memory (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(platform: P) -> Frames<P> {
        empty!(platform)
    }

    /// Returns the platform.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// Takes over all free memory of `memory`, with each node's bookkeeping on that node. From then
    /// on no other user may take memory from it. CPUs get their magazines by
    /// [`Frames::cpu_online`].
    ///
    /// Bookkeeping of a node without memory, or without room for it, is near the node, where
    /// [`BootMemory::alloc`] finds room. Bookkeeping of the whole machine is near node 0: it finds
    /// regions by address, and is read only from then on. [`Frames::bookkeeping`] says where each part is.
    ///
    /// Early frames ([`BootAllocator::early_frame`](crate::BootAllocator::early_frame)) are allocated from then on.
    ///
    /// Needs less than 8 KiB of stack in a release build, and less than 16 KiB in a debug build, whatever the machine:
    /// facts about the nodes lie meanwhile in memory taken from `memory`.
    ///
    /// # Errors
    ///
    /// After an error nothing can be allocated, and the memory placed for bookkeeping is lost.
    ///
    /// - [`InitError::AlreadyDone`] if `init` was called before.
    /// - [`InitError::NoMemory`] if there is no usable memory.
    /// - [`InitError::TooManyRegions`] or [`InitError::TooManyPieces`] if the memory has more
    ///   separate stretches than supported.
    /// - [`InitError::Metadata`] if there is no memory for the bookkeeping.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::{FramesConfig, InitError};
    /// use topomem_numa::{BootAllocator, MemoryMap, Topology};
    ///
    /// // The allocator of the example was built before.
    /// let (mut map, topology) = (Box::new(MemoryMap::new()), Box::new(Topology::new()));
    /// let again = frames.init(&mut BootAllocator::new(&mut map, &topology), &FramesConfig::default());
    /// assert!(matches!(again, Err(InitError::AlreadyDone)));
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn init<G: BootMemory>(
        &self,
        memory: &mut G,
        config: &FramesConfig,
    ) -> Result<(), InitError<G::Error>> {
        // Relaxed: the swap only selects the builder.
        if self.building.swap(true, Ordering::Relaxed) {
            return Err(InitError::AlreadyDone);
        }
        match build::build(&self.platform, memory, config) {
            Ok(state) => {
                self.magazines.extend(state.far_places);
                // Release pairs with the Acquire in `Frames::state`.
                self.state.store(ptr::from_ref(state).cast_mut(), Ordering::Release);
                Ok(())
            }
            Err(error) => {
                self.building.store(false, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Disables a mechanism, for good.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, fault: Fault) {
        self.faults.inject(fault);
    }
}

impl<P: Platform> fmt::Debug for Frames<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("state", &self.state()).finish_non_exhaustive()
    }
}
