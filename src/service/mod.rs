//! The service: the entry point to everything.

mod boot;
mod cpu;
mod create;
pub(crate) mod memory;
mod spaces;
mod task;
mod wake;

use core::cell::UnsafeCell;
use core::fmt;

use topomem_numa::Topology;
use topomem_numa::frames::Frames;
use topomem_percpu::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use topomem_percpu::{CpuId, CpuPin, NodeId, PhysAddr, PhysFrame};
use topomem_shootdown::{Shootdown, WakersDue};

use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore, lower_half};
#[cfg(feature = "fault-injection")]
use crate::fault::Fault;
use crate::fault::FaultCell;
use crate::heap::KernelHeap;
use crate::object::QueuesDue;
use crate::page_table::{Pages, TableAccess, Walks};
use crate::ranges::KernelRanges;
use crate::retire::Due;
use crate::spin_lock::SpinLock;

pub use boot::{Boot, BootError, Discovered, KernelLayout, WithFrames, WithHeap};
pub use cpu::lifecycle::{OfflineError, OnlineError};
pub use cpu::stats::CpuStats;
pub use memory::meminfo::{MemInfo, NumaStat};
pub use memory::wait::Allocation;
pub use task::{PendingWork, ServiceTask};

/// The stages of boot. Each stage is stored (Release) after its result is complete, pairing with
/// the Acquire in `reached`.
mod stage {
    pub(super) const NONE: u8 = 0;
    pub(super) const BOOTING: u8 = 1;
    pub(super) const TOPOLOGY: u8 = 2;
    pub(super) const FRAMES: u8 = 3;
    pub(super) const READY: u8 = 4;
}

/// Frames, heap, shootdown queue, page tables and address spaces of a kernel.
///
/// Made for a `static`. [`MemoryService::boot`] boots the service, in an order enforced by types.
/// [`MemoryService::cpu_online`] adds a CPU. The kernel calls [`MemoryService::on_shootdown_ipi`]
/// from its interrupt handler, and [`MemoryService::poll_shootdown`] from its spin loops and from
/// [`Platform::relax`](topomem_percpu::Platform::relax). On each CPU the kernel spawns
/// [`MemoryService::task`] or calls [`MemoryService::run_pending_work`] now and then. It calls
/// [`MemoryService::wake_due`] wherever wakers may run.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{FrameRequest, Order};
///
/// let frame = service.alloc(pin, &FrameRequest::frame().zeroed())?;
/// // SAFETY: the frame was just allocated, and is not used.
/// unsafe { service.free(pin, frame, Order::FRAME)? };
/// # Ok(())
/// # }).unwrap();
/// ```
pub struct MemoryService<P: Machine> {
    platform: P,
    frames: Frames<P>,
    shootdown: Shootdown<P>,
    walks: Walks,
    /// Written in place by boot before the stage is [`stage::TOPOLOGY`], shared afterwards.
    topology: UnsafeCell<Topology>,
    stage: AtomicU8,
    heap: AtomicPtr<KernelHeap<P>>,
    kernel_space: AtomicPtr<SpaceCore<P>>,
    /// The user spaces, abandoned spaces included.
    spaces: SpinLock<spaces::Spaces<P>>,
    task_wakers: wake::TaskWakers,
    /// Held while tables get room for more CPUs.
    extending: SpinLock<()>,
    callbacks_due: Due,
    /// Queues of pagers with requests answered inside a drop.
    pagers_due: QueuesDue<P>,
    /// The address of the frame of zeros shared by all spaces.
    zero_frame: AtomicU64,
    /// The first page of programs' spaces, and the page behind the last; 0 behind: the lower half.
    programs: (AtomicU64, AtomicU64),
    /// Number of memory objects created so far.
    objects: AtomicU64,
    /// The ranges of kernel addresses, or null.
    pub(crate) ranges: AtomicPtr<KernelRanges<P>>,
    pub(crate) fault: FaultCell,
}

// SAFETY: `topology` is written by the holder of the boot token, and read elsewhere only after the
// stage shows it complete; everything else is `Sync` itself.
unsafe impl<P: Machine> Sync for MemoryService<P> {}

impl<P: Machine> MemoryService<P> {
    /// Returns a service without memory.
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
            extending: SpinLock::new(()),
            callbacks_due: Due::new(),
            pagers_due: QueuesDue::new(),
            zero_frame: AtomicU64::new(0),
            programs: (AtomicU64::new(0), AtomicU64::new(0)),
            objects: AtomicU64::new(0),
            ranges: AtomicPtr::new(core::ptr::null_mut()),
            fault: FaultCell::new(),
        }
    }

    /// Returns the platform passed to [`MemoryService::new`].
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::Platform;
    ///
    /// assert_eq!(service.platform().current_cpu(), pin.cpu());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// Returns the frame allocator.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let node = service.node_of_cpu(pin.cpu());
    /// assert!(service.frames().stats(node).unwrap().free() > 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub const fn frames(&self) -> &Frames<P> {
        &self.frames
    }

    /// Returns the shootdown queue.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// assert!(service.shootdown().kernel().cpus().contains(pin.cpu()));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub const fn shootdown(&self) -> &Shootdown<P> {
        &self.shootdown
    }

    pub(crate) const fn walks(&self) -> &Walks {
        &self.walks
    }

    /// Returns the pinned CPU's means to change page tables.
    #[inline]
    pub(crate) const fn tables<'a>(&'a self, pin: &'a CpuPin) -> TableAccess<'a, Frames<P>> {
        TableAccess { memory: &self.frames, walks: &self.walks, pin }
    }

    /// Returns whether boot has reached `stage`. Acquire pairs with the Release of boot's steps.
    fn reached(&self, stage: u8) -> bool {
        self.stage.load(Ordering::Acquire) >= stage
    }

    /// Returns the machine's topology after boot has discovered it.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// assert_eq!(service.topology().unwrap().node_count(), 1);
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn topology(&self) -> Option<&Topology> {
        // SAFETY: from this stage on, the topology is never written.
        self.reached(stage::TOPOLOGY).then(|| unsafe { &*self.topology.get() })
    }

    /// Returns the node `cpu` works on: its own node, or the nearest node with memory
    /// ([`Frames::node_of_cpu`]). Returns node 0 before the frame allocator is built.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::NodeId;
    ///
    /// assert_eq!(service.node_of_cpu(pin.cpu()), NodeId::ZERO);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.frames.node_of_cpu(cpu)
    }

    /// Returns the frame of zeros, shared by spaces until they write, after boot has allocated it.
    pub(crate) fn zero_frame(&self) -> Option<PhysFrame> {
        // Acquire pairs with the Release in `kernel_space` of boot: a reader of the address sees
        // the frame zeroed.
        let address = self.zero_frame.load(Ordering::Acquire);
        (address != 0).then(|| PhysFrame::containing_address(PhysAddr::new(address)))
    }

    /// Returns a number unused by any memory object. The first number is 1: in lists of mappings, 0
    /// means none.
    pub(crate) fn next_object(&self) -> u64 {
        // Relaxed: the number orders nothing.
        self.objects.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns the kernel's heap after boot has connected it.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let heap = service.heap().unwrap();
    /// heap.heap().validate()?;
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn heap(&self) -> Option<&'static KernelHeap<P>> {
        // SAFETY: boot stores the address of a `&'static KernelHeap`, with a Release pairing with
        // this Acquire.
        unsafe { self.heap.load(Ordering::Acquire).as_ref() }
    }

    /// Returns the pages of programs' spaces; all others are the kernel's.
    pub(crate) fn programs(&self) -> Pages {
        // Relaxed: boot stores both before it publishes the kernel's space.
        let [first, end] = [&self.programs.0, &self.programs.1].map(|page| page.load(Ordering::Relaxed));
        if end == 0 { lower_half::<P::Format>() } else { Pages { first, last: end - 1 } }
    }

    pub(crate) fn kernel_core(&self) -> Option<&'static SpaceCore<P>> {
        // SAFETY: boot stores the address of a space living for good, with a Release pairing with
        // this Acquire.
        unsafe { self.kernel_space.load(Ordering::Acquire).as_ref() }
    }

    /// Returns the kernel's address space after boot has built it.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let kernel = service.kernel_space().unwrap();
    /// assert!(kernel.domain().cpus().contains(pin.cpu()));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn kernel_space(&self) -> Option<AddressSpace<P>> {
        self.kernel_core().map(AddressSpace::of)
    }

    /// Breaks one rule of address spaces, or restores all, for tests expected to fail.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, fault: Option<Fault>) {
        self.fault.set(fault);
    }

    /// The shootdown interrupt's handler: flushes and answers. Takes no lock, allocates
    /// nothing, calls no waker; safe nested and spurious.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let due = service.on_shootdown_ipi(pin); // from the interrupt handler; a spurious call is harmless
    /// println!("{due:?}");
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn on_shootdown_ipi(&self, pin: &CpuPin) -> WakersDue {
        self.shootdown.on_ipi(pin)
    }

    /// Serves a shootdown whose interrupt is on its way, from a spin loop. Cost: a load if none is.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// service.poll_shootdown(pin); // from spin loops
    /// # Ok(())
    /// # }).unwrap();
    /// ```
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
