//! The service: one entry point to everything.

mod boot;
pub(crate) mod frame_memory;
mod lifecycle;
mod meminfo;
mod references;
mod relieve;
pub(crate) mod shares;
mod spaces;
mod stats;
mod task;
mod wait;
mod wake;

use core::cell::UnsafeCell;
use core::fmt;

use topomem_numa::Topology;
use topomem_numa::frames::{AllocError, FrameRequest, Frames};
use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use topomem_percpu::{CpuId, CpuPin, NodeId, Order};
use topomem_shootdown::{Shootdown, WakersDue};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

pub use boot::{Boot, BootError, Discovered, KernelLayout, WithFrames, WithHeap};
pub use lifecycle::{OfflineError, OnlineError};
pub use meminfo::{MemInfo, NumaStat};
pub use stats::CpuStats;
pub use task::{ServiceTask, Tended};
pub use wait::Allocation;

use crate::Machine;
use crate::address_space::{AddressSpace, CreateError, SpaceCore, SpaceKind, user_bounds};
use crate::fault::{Fault, FaultCell};
use crate::heap::KernelHeap;
use crate::object::QueuesDue;
use crate::page_table::{ENTRIES, PageTable, RootEntries, TableAccess, Walks};
use crate::ranges::KernelRanges;
use crate::region::SpaceLayout;
use crate::retire::Due;
use crate::spin_lock::SpinLock;

/// How far boot has come; each step is stored (Release) once what it built is complete.
mod stage {
    pub const NONE: u8 = 0;
    pub const BOOTING: u8 = 1;
    pub const TOPOLOGY: u8 = 2;
    pub const FRAMES: u8 = 3;
    pub const READY: u8 = 4;
}

/// Frames, heap, shootdown queue, page tables and address spaces of one kernel.
///
/// Made for a `static`. [`MemoryService::boot`] brings it up, in an order that types enforce;
/// [`MemoryService::cpu_online`] adds a CPU. From its interrupt handler the kernel calls
/// [`MemoryService::on_shootdown_ipi`], from its spin loops (and from
/// [`Platform::relax`](topomem_percpu::Platform::relax)) [`MemoryService::poll_shootdown`]. On each
/// CPU it spawns [`MemoryService::task`] or calls [`MemoryService::tend`] now and then, and it calls
/// [`MemoryService::wake_due`] wherever wakers may run.
pub struct MemoryService<P: Machine> {
    platform: P,
    frames: Frames<P>,
    shootdown: Shootdown<P>,
    walks: Walks,
    /// Written in place by boot before the stage is [`stage::TOPOLOGY`], shared from then on.
    topology: UnsafeCell<Topology>,
    stage: AtomicU8,
    heap: AtomicPtr<KernelHeap<P>>,
    kernel_space: AtomicPtr<SpaceCore<P>>,
    /// The user spaces, abandoned ones included.
    spaces: SpinLock<spaces::Spaces<P>>,
    task_wakers: wake::TaskWakers,
    callbacks_due: Due,
    /// Queues of pagers with requests that were answered inside a drop.
    pagers_due: QueuesDue<P>,
    /// The address of the frame of zeros that all spaces share.
    zero_frame: AtomicU64,
    /// How many memory objects there were.
    objects: AtomicU64,
    /// Null, or the ranges of kernel addresses.
    pub(crate) ranges: AtomicPtr<KernelRanges<P>>,
    fault: FaultCell,
}

// SAFETY: `topology` is written by the one holder of the boot token, and read by others only
// once the stage says that it is complete; everything else is `Sync` itself.
unsafe impl<P: Machine> Sync for MemoryService<P> {}

impl<P: Machine> MemoryService<P> {
    /// A service without memory.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(platform: P) -> MemoryService<P> {
        MemoryService {
            platform,
            frames: Frames::new(platform),
            shootdown: Shootdown::new(platform),
            walks: Walks::new(),
            topology: UnsafeCell::new(Topology::new()),
            stage: AtomicU8::new(stage::NONE),
            heap: AtomicPtr::new(core::ptr::null_mut()),
            kernel_space: AtomicPtr::new(core::ptr::null_mut()),
            spaces: SpinLock::new(spaces::Spaces::NONE),
            task_wakers: wake::TaskWakers::new(),
            callbacks_due: Due::new(),
            pagers_due: QueuesDue::new(),
            zero_frame: AtomicU64::new(0),
            objects: AtomicU64::new(0),
            ranges: AtomicPtr::new(core::ptr::null_mut()),
            fault: FaultCell::new(),
        }
    }

    /// What the kernel supplied.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// The frame allocator.
    pub const fn frames(&self) -> &Frames<P> {
        &self.frames
    }

    /// The shootdown queue.
    pub const fn shootdown(&self) -> &Shootdown<P> {
        &self.shootdown
    }

    pub(crate) const fn walks(&self) -> &Walks {
        &self.walks
    }

    /// What the pinned CPU needs to change page tables.
    #[inline]
    pub(crate) const fn tables<'a>(&'a self, pin: &'a CpuPin) -> TableAccess<'a, Frames<P>> {
        TableAccess { memory: &self.frames, walks: &self.walks, pin }
    }

    /// Acquire pairs with the Release of boot's steps.
    fn reached(&self, stage: u8) -> bool {
        self.stage.load(Ordering::Acquire) >= stage
    }

    /// The machine's topology, once boot has discovered it.
    pub fn topology(&self) -> Option<&Topology> {
        // SAFETY: from this stage on nobody writes it.
        self.reached(stage::TOPOLOGY).then(|| unsafe { &*self.topology.get() })
    }

    /// The node that `cpu` works on: its own, or where that has no memory, the nearest one that has
    /// ([`Frames::node_of_cpu`]). Node 0 before there are frames.
    pub fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.frames.node_of_cpu(cpu)
    }

    /// The frame of zeros that spaces share until they write, once boot has allocated it.
    pub(crate) fn zero_frame(&self) -> Option<PhysFrame> {
        // Acquire pairs with the Release of boot: who sees the frame sees it zeroed.
        let address = self.zero_frame.load(Ordering::Acquire);
        (address != 0).then(|| PhysFrame::containing_address(PhysAddr::new_truncate(address)))
    }

    /// Returns a number that no memory object has had. The first is 1: in lists of mappings 0 means none.
    pub(crate) fn next_object(&self) -> u64 {
        // Relaxed: only the number counts.
        self.objects.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The kernel's heap, once boot has fed it.
    pub fn heap(&self) -> Option<&'static KernelHeap<P>> {
        // SAFETY: boot stores the address of a `&'static KernelHeap`, with Release.
        unsafe { self.heap.load(Ordering::Acquire).as_ref() }
    }

    pub(crate) fn kernel_core(&self) -> Option<&'static SpaceCore<P>> {
        // SAFETY: boot stores the address of a space that lives for good, with Release.
        unsafe { self.kernel_space.load(Ordering::Acquire).as_ref() }
    }

    /// The kernel's address space, once boot has built it.
    pub fn kernel_space(&self) -> Option<AddressSpace<P>> {
        self.kernel_core().map(AddressSpace::of)
    }

    /// A new user space: an empty lower half, and the kernel's upper half.
    ///
    /// Costs two allocations, and the copying of half a table.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; nothing has changed.
    pub fn create_space(&'static self, pin: &CpuPin) -> Result<AddressSpace<P>, CreateError> {
        self.create_randomized_space(pin, 0)
    }

    /// As [`MemoryService::create_space`], and regions that may be anywhere lie where `seed` says: its low
    /// [`SpaceLayout::ENTROPY_BITS`] bits are the number of pages that they lie lower.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; nothing has changed.
    pub fn create_randomized_space(
        &'static self,
        pin: &CpuPin,
        seed: u64,
    ) -> Result<AddressSpace<P>, CreateError> {
        self.create(pin, SpaceLayout::below(user_bounds::<P::Format>()).randomized(seed))
    }

    /// A new user space whose regions lie as in `other`.
    pub(crate) fn create_space_like(
        &'static self,
        pin: &CpuPin,
        other: &SpaceCore<P>,
    ) -> Result<AddressSpace<P>, CreateError> {
        self.create(pin, other.layout)
    }

    fn create(&'static self, pin: &CpuPin, layout: SpaceLayout) -> Result<AddressSpace<P>, CreateError> {
        let kernel = self.kernel_core().ok_or(CreateError::NoKernelSpace)?;
        let new = || PageTable::new(&self.frames, pin, RootEntries::Own);
        let table = new().or_else(|error| self.relieve(pin, error, new)).map_err(CreateError::OutOfFrames)?;
        // SAFETY: the table is new; the kernel's root entries and the tables below never go.
        unsafe { table.share_from(&self.frames, kernel.table.root(), ENTRIES / 2) };
        let bounds = user_bounds::<P::Format>();
        match SpaceCore::place(self, pin, table, SpaceKind::User, bounds, layout) {
            Ok(core) => {
                self.spaces.lock(&self.platform).add(core);
                Ok(AddressSpace::of(core))
            }
            Err((error, table)) => {
                // SAFETY: the root was used by nobody.
                unsafe { frame_memory::release_own(&self.frames, pin, table.root(), Order::FRAME) };
                Err(CreateError::OutOfFrames(error))
            }
        }
    }

    /// Breaks one rule of address spaces, or none again: for tests that must then fail.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, fault: Option<Fault>) {
        self.fault.set(fault);
    }

    /// Returns `request` as it is for memory that programs see: with zeros in it.
    #[inline(always)]
    pub(crate) fn blank(&self, request: FrameRequest) -> FrameRequest {
        if self.broken(Fault::UnzeroedMemory) { request } else { request.zeroed() }
    }

    /// Returns whether the rule is to be broken. Constantly not without the feature `fault-injection`.
    #[inline(always)]
    pub(crate) fn broken(&self, fault: Fault) -> bool {
        self.fault.is(fault)
    }

    /// A run of frames. Where memory is short, frees what can be freed before it fails: what has
    /// retired, abandoned spaces, and page tables that map nothing.
    ///
    /// For any context, interrupt handlers included: it calls no waker, and does a bounded amount of
    /// work (about a millisecond) where memory is short.
    ///
    /// # Errors
    ///
    /// [`AllocError`], as of [`Frames::alloc`]. [`AllocError::WouldBlock`] also where frames are free
    /// once other CPUs have answered, or the service task has been round.
    pub fn alloc(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        self.frames
            .alloc(pin, request)
            .or_else(|error| self.relieve(pin, error, || self.frames.alloc(pin, request)))
    }

    /// The shootdown interrupt's handler: flushes and answers. Takes no lock, allocates
    /// nothing, calls no waker; safe nested and spurious.
    pub fn on_shootdown_ipi(&self, pin: &CpuPin) -> WakersDue {
        self.shootdown.on_ipi(pin)
    }

    /// Answers a shootdown that an interrupt on its way asks for; one load where there is none.
    pub fn poll_shootdown(&self, pin: &CpuPin) {
        self.shootdown.poll(pin);
    }
}

impl<P: Machine> fmt::Debug for MemoryService<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryService")
            .field("stage", &self.stage.load(Ordering::Relaxed))
            .field("shootdown", &self.shootdown)
            .finish_non_exhaustive()
    }
}
