//! The frame allocator: bitmap blocks below 2 MiB, a buddy over whole blocks up to 1 GiB, and a
//! magazine per CPU in front.
//!
//! Memory of one node and zone is a *region* of 2 MiB *blocks*. Frames are free in exactly one
//! place: as a bit in their block's bitmap line, as part of a whole block in the buddy's line of
//! its GiB, in one CPU's magazine, or in their node's pool of zeroed frames. Nothing takes a lock, except futures that wait for memory.

#[cfg(feature = "x86_64")]
mod adapter;
mod alloc;
mod build;
mod diag;
mod free;
mod magazine;
mod maintenance;
mod node;
mod page_source;
mod per_cpu;
mod region;
mod state;
mod types;

#[cfg(feature = "x86_64")]
pub use adapter::FrameSource;
pub use alloc::owned::OwnedFrames;
pub use alloc::placed::AllocAtError;
pub use alloc::resize::ResizeError;
pub use alloc::wait::AllocFuture;
pub use build::ground::Ground;
pub use diag::bookkeeping::Bookkeeping;
#[cfg(feature = "fault-injection")]
pub use diag::fault::Fault;
pub use diag::stats::{MagazineStats, NodeStats, Totals, ZoneStats};
pub use diag::validate::Corruption;
pub use maintenance::pressure::Reclaimed;
pub use maintenance::retire::{RetireError, Retired};
pub use node::zeroed_pool::ZeroedStats;
pub use per_cpu::cpu_hotplug::Drained;
pub use region::retired::Retirement;
pub use state::Metadata;
pub use state::frame_table::FrameInfo;
pub use types::{
    AllocError, DoubleFrees, FrameRequest, FramesConfig, FreeError, InitError, InvalidRequest, NodeSet,
    Obstacle, OnlineError, PerFrameTable, Policy, Pressure, Watermarks, ZeroedFrames, Zeroing, Zone,
    ZoneLimits, ZoneWatermarks,
};

use core::fmt;
use core::ptr;

use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use topomem_percpu::{CpuId, NodeId, PhysFrame, Platform};

use magazine::table::MagazineTable;
use state::Machine;
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
    rack: MagazineTable,
    /// Null until built.
    machine: AtomicPtr<Machine>,
    /// True once a CPU has begun to build.
    building: AtomicBool,
    waiters: Waiters,
    #[cfg(feature = "fault-injection")]
    faults: diag::fault::Faults,
}

macro_rules! empty {
    ($platform:expr) => {
        Frames {
            platform: $platform,
            rack: MagazineTable::new(),
            machine: AtomicPtr::new(ptr::null_mut()),
            building: AtomicBool::new(false),
            waiters: Waiters::new(),
            #[cfg(feature = "fault-injection")]
            faults: diag::fault::Faults::new(),
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

    /// Takes over all free memory of `ground`, with each node's bookkeeping on that node. From then
    /// on no other user may take memory from it. CPUs get their magazines by
    /// [`Frames::cpu_online`].
    ///
    /// Bookkeeping of a node without memory, or without room for it, is near the node, where
    /// [`Ground::place`] finds room. Bookkeeping of the whole machine is near node 0: it finds
    /// regions by address, and is read only from then on. [`Frames::bookkeeping`] says where each part is.
    ///
    /// Early frames ([`BootAllocator::early_frame`](crate::BootAllocator::early_frame)) are allocated from then on.
    ///
    /// Needs less than 8 KiB of stack in a release build, and less than 16 KiB in a debug build, whatever the machine: what
    /// is known of the nodes meanwhile lies in memory from the ground.
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
    pub fn init<G: Ground>(&self, ground: &mut G, config: &FramesConfig) -> Result<(), InitError<G::Error>> {
        // Relaxed: the swap only selects the builder.
        if self.building.swap(true, Ordering::Relaxed) {
            return Err(InitError::AlreadyDone);
        }
        match build::build(&self.platform, ground, config) {
            Ok(machine) => {
                // Release pairs with the Acquire in `machine`.
                self.machine.store(ptr::from_ref(machine).cast_mut(), Ordering::Release);
                Ok(())
            }
            Err(error) => {
                self.building.store(false, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    #[inline]
    fn machine(&self) -> Option<&'static Machine> {
        // SAFETY: null, or the address of a `&'static` from `init`.
        unsafe { self.machine.load(Ordering::Acquire).as_ref() }
    }

    /// Returns the node of a frame, or `None` if no node has it.
    ///
    /// Cost: one load and a search of the regions of 16 MiB: mostly one.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let run = frames.alloc_owned(&FrameRequest::frame())?;
    /// assert_eq!(frames.node_of(run.first()), Some(NodeId::ZERO));
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_of(&self, frame: PhysFrame) -> Option<NodeId> {
        Some(self.machine()?.region_of(alloc::number(frame))?.node)
    }

    /// Returns the serving node of `cpu`: its own, or the nearest node with memory if its own node
    /// has none in this allocator. The CPU's magazine and its refills are on that node. Returns
    /// node 0 before [`Frames::init`].
    ///
    /// Cost: two loads; the result was computed by [`Frames::init`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    ///
    /// assert_eq!(frames.node_of_cpu(pin.cpu()), NodeId::ZERO);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.machine().map_or(NodeId::ZERO, |machine| machine.node_of_cpu(cpu))
    }

    /// Returns the node with memory nearest to `node`: the node itself if it has memory. Returns
    /// `None` if the machine has no such node, if no node has memory, and before [`Frames::init`].
    ///
    /// Cost: a few loads for each node checked.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    ///
    /// assert_eq!(frames.node_with_memory(NodeId::ZERO), Some(NodeId::ZERO));
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_with_memory(&self, node: NodeId) -> Option<NodeId> {
        let machine = self.machine()?;
        let nearest = machine.node(node)?.nearest().iter().copied();
        nearest.filter_map(|id| machine.node(id)).find(|node| node.has_memory()).map(|node| node.id)
    }

    /// Returns the zone of a frame, or `None` if no node has it.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::{FrameRequest, Zone};
    ///
    /// let run = frames.alloc_owned(&FrameRequest::frame())?;
    /// assert_eq!(frames.zone_of(run.first()), Some(Zone::Dma32)); // between 16 MiB and 4 GiB
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn zone_of(&self, frame: PhysFrame) -> Option<Zone> {
        Some(self.machine()?.region_of(alloc::number(frame))?.zone)
    }

    /// Returns the frame's entry in the per-frame table; `None` without a table, or outside all
    /// memory.
    ///
    /// Cost: logarithmic in the stretches of memory.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let run = frames.alloc_owned(&FrameRequest::frame())?;
    /// assert!(frames.info(run.first()).is_some());
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn info(&self, frame: PhysFrame) -> Option<&FrameInfo> {
        self.machine()?.directory.find_info(alloc::number(frame))
    }

    /// Returns the entry as [`Frames::info`] does, without checking that it exists: mostly two
    /// loads.
    ///
    /// # Safety
    ///
    /// [`Frames::info`] has an entry for the frame. It has entries for all frames ever handed out
    /// by an allocator with a per-frame table.
    #[inline]
    pub unsafe fn info_unchecked(&self, frame: PhysFrame) -> &FrameInfo {
        // SAFETY: there is no entry before `init`.
        let machine = unsafe { self.machine().unwrap_unchecked() };
        // SAFETY: the caller's promise.
        unsafe { machine.directory.info(alloc::number(frame)) }
    }

    /// Returns the number of the frame's entry in the per-frame table: from 1 on, and no more than
    /// [`Frames::last_info_number`]. If memory ends below 8 TiB, it is the frame's own number.
    /// Otherwise entries are numbered consecutively where there is memory, so their numbers need
    /// fewer bits than those of frames.
    ///
    /// Cost: as for [`Frames::info_unchecked`].
    ///
    /// # Safety
    ///
    /// As for [`Frames::info_unchecked`].
    #[inline]
    pub unsafe fn info_number_unchecked(&self, frame: PhysFrame) -> u64 {
        // SAFETY: there is no entry before `init`.
        let machine = unsafe { self.machine().unwrap_unchecked() };
        // SAFETY: the caller's promise.
        unsafe { machine.directory.entry_number(alloc::number(frame)) }
    }

    /// Returns the frame whose entry in the per-frame table has the number `number`; for a number
    /// without an entry, any frame.
    ///
    /// Cost: two loads if memory ends below 8 TiB; otherwise logarithmic in the stretches of
    /// memory.
    #[inline]
    pub fn frame_of_info(&self, number: u64) -> PhysFrame {
        alloc::frame(self.machine().map_or(number, |machine| machine.directory.frame_of_entry(number)))
    }

    /// Returns the number of the last entry in the per-frame table; 0 without a table.
    pub fn last_info_number(&self) -> u64 {
        let last = self.machine().and_then(|machine| machine.directory.stretches.last());
        last.map_or(0, |last| last.first_entry + last.entries.len() as u64 - 1)
    }

    /// Returns the bytes of bookkeeping; zeros before [`Frames::init`].
    pub fn metadata(&self) -> Metadata {
        self.machine().map_or(Metadata::default(), |machine| machine.metadata)
    }

    /// Disables a mechanism, for good.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, fault: Fault) {
        self.faults.inject(fault);
    }
}

impl<P: Platform> fmt::Debug for Frames<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("machine", &self.machine()).finish_non_exhaustive()
    }
}
