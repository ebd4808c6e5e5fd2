//! Address spaces: the kernel's, and user spaces with the kernel's half.

mod change;
mod core;
mod dump;
mod error;
mod layout;
#[cfg(feature = "x86_64")]
mod mapper;
mod reclaim;
mod writable_code;

use ::core::fmt;
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, PhysAddr, PhysFrame};
use topomem_shootdown::{Domain, PageSize, RootLoad, VirtAddr, WakersDue};

use crate::Machine;
use crate::page_table::{Format, Leaf, LockCounters};

pub use change::batch::Batch;
pub(crate) use change::batch::record_change;
pub use change::unmapping::{Unmapped, Unmapping};
pub(crate) use change::{Unmoved, invalidation_of};
pub(crate) use core::SpaceCore;
pub use dump::TableDump;
pub use error::{CreateError, MapError, PromoteError, ProtectError, RemapError, ShareError, UnmapError};
pub use layout::SpaceKind;
pub(crate) use layout::{lower_half, pages_of, range_of_pages, size_of_level, user_bounds};
#[cfg(feature = "x86_64")]
pub use mapper::{FlagsError, Refusal, SpaceMapper};
pub use reclaim::close::Closing;
pub(crate) use reclaim::retired::Collected;
pub use writable_code::WritableCode;

pub use crate::retire::Callback;

/// The translation of an address.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
///
/// let space = service.create_space(pin)?;
/// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
/// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
/// let found = space.translate(pin, VirtAddr::new(0x40_0123)?).unwrap();
/// assert_eq!(found.size, PageSize::Size4KiB);
/// assert_eq!(found.address.as_u64() & 0xfff, 0x123);
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of the byte.
    pub address: PhysAddr,
    /// The size of the page around the address.
    pub size: PageSize,
    /// The mapping: its first frame, and its permissions.
    pub leaf: Leaf,
}

/// An address space: a page table, the CPUs with possible translations, and the owned frames.
///
/// All operations take `&self` and run in parallel if their ranges have no 2 MiB in common. An
/// operation on a range or page reaching across 1 GiB waits for all operations below the table
/// covering it. Operations must not be called from interrupt handlers able to interrupt one of
/// them.
///
/// # Completion
///
/// When the ticket of a change completes, no CPU can use a translation removed or narrowed by an
/// earlier change, if the translation belongs to the change's pages, or leads to a frame freed by
/// the change at any address ever mapped to the frame. The rule covers changes made by any CPU,
/// announced or not: the changes of an open [`Batch`] count. A change without anything to change
/// may therefore have to wait, for a change just made by another CPU.
///
/// # Mapping again
///
/// Mapping pages removes no translation. It has no ticket and waits for no CPU. If an earlier
/// unmapping of the same pages is not complete, remote CPUs may use the old translation, whose
/// frame is still allocated, in place of the new mapping. If the unmapping removed page tables,
/// they may also find nothing mapped. Both end when the unmapping completes. The CPU with the
/// unmapping uses the new mapping at once. A kernel therefore maps pages again after waiting for
/// the unmapping, or relies on the new mapping after waiting for [`AddressSpace::pending`] of its
/// pages. Pages unmapped in a still open batch are stale on the CPU of the batch, too.
///
/// A drop only marks a user space, in any context. The space is freed when no CPU has it active, by
/// the service task ([`MemoryService::run_pending_work`](crate::MemoryService::run_pending_work)) or when memory is short.
/// The kernel's space lives for good.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
///
/// let space = service.create_space(pin)?;
/// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
/// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
/// space.protect(pin, page, Protection::USER_READ_ONLY)?.wait(pin);
/// space.unmap(pin, page)?.wait(pin);
/// assert_eq!(space.mapped_pages(), 0);
/// # Ok(())
/// # }).unwrap();
/// ```
pub struct AddressSpace<P: Machine> {
    core: &'static SpaceCore<P>,
}

impl<P: Machine> AddressSpace<P> {
    pub(crate) fn core(&self) -> &'static SpaceCore<P> {
        self.core
    }

    pub(crate) fn of(core: &'static SpaceCore<P>) -> AddressSpace<P> {
        AddressSpace { core }
    }

    /// Returns a batch of changes to announce together.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let mut batch = space.batch(pin);
    /// batch.protect(page, Protection::USER_READ_ONLY)?;
    /// batch.unmap(page)?;
    /// batch.issue().wait(pin); // one round of interrupts for both changes
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn batch<'s, 'p>(&'s self, pin: &'p CpuPin) -> Batch<'s, 'p, P> {
        Batch::new(self.core, pin)
    }

    /// Returns the translation the hardware would find at `address` now. Takes no lock.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::VirtAddr;
    ///
    /// let space = service.create_space(pin)?;
    /// assert!(space.translate(pin, VirtAddr::new(0x40_0000)?).is_none());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn translate(&self, pin: &CpuPin, address: VirtAddr) -> Option<Translation> {
        let service = self.core.service;
        let root = <P::Format as Format>::ROOT;
        let unused = 64 - root.address_bits();
        let canonical = ((address.as_u64() << unused) as i64 >> unused) as u64 == address.as_u64();
        let walk = service.walks().enter(pin);
        let found = self.core.table.walk(service.frames(), &walk, address.as_u64() >> 12);
        let (leaf, level) = found.filter(|_| canonical)?;
        let size = size_of_level(level);
        let offset = address.as_u64() & (size.bytes() - 1);
        Some(Translation { address: leaf.frame.start_address() + offset, size, leaf })
    }

    /// Makes the pinned CPU translate through this space. The kernel's half stays unchanged.
    ///
    /// Changes awaited by remote CPUs may complete in the call, and the last space may go. The
    /// result tells whether [`MemoryService::wake_due`](crate::MemoryService::wake_due) has
    /// something to do.
    ///
    /// # Safety
    ///
    /// - The CPU is online in the service, and its page-table root changes in no other way.
    /// - The function is not called from a context that interrupted a call of the service on the
    ///   same CPU.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// // SAFETY: the CPU is online, and no call of the service is interrupted.
    /// unsafe { space.activate(pin) };
    /// assert!(space.domain().cpus().contains(pin.cpu()));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn activate(&self, pin: &CpuPin) -> WakersDue {
        let core = self.core;
        let load = |load| match load {
            RootLoad::Untagged => core.service.platform().load_root(core.table.root()),
            tagged => core.service.platform().load_tagged_root(core.table.root(), tagged),
        };
        let shootdown = core.service.shootdown();
        let due = match core.kind {
            // SAFETY: `load` loads this space's tables; the space's bookkeeping is freed only when
            // its domain is idle; the rest is the caller's promise.
            SpaceKind::User => unsafe { shootdown.activate(pin, core.domain(), load) },
            // SAFETY: the kernel's tables contain nothing of a user space.
            SpaceKind::Kernel => unsafe { shootdown.deactivate(pin, load) },
        };
        core.service.note_left(pin);
        if core.service.wake_is_due(pin) { WakersDue::Perhaps } else { due }
    }

    /// Returns the root of the page table.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// assert_eq!(service.frames().node_of(space.root()), Some(service.node_of_cpu(pin.cpu())));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn root(&self) -> PhysFrame {
        self.core.table.root()
    }

    /// Returns the kind of the space: the kernel's, or a user space.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::address_space::SpaceKind;
    ///
    /// assert_eq!(service.create_space(pin)?.kind(), SpaceKind::User);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn kind(&self) -> SpaceKind {
        self.core.kind
    }

    /// Returns the domain: the CPUs with possible translations, and the generation.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// assert!(space.domain().is_idle()); // no CPU has the space active
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn domain(&self) -> &Domain {
        self.core.domain()
    }

    /// Returns the number of 4 KiB pages mapped through the space.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// assert_eq!(space.mapped_pages(), 1);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn mapped_pages(&self) -> u64 {
        self.core.mapped()
    }

    /// Returns the number of retired frames waiting for their invalidation, without a waiting
    /// context.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// assert_eq!(space.retired_frames(), 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn retired_frames(&self) -> u64 {
        self.core.retired_frames()
    }

    /// Returns the counts of the tables' locks.
    #[must_use]
    pub fn locks(&self) -> &LockCounters {
        self.core.table.locks()
    }
}

impl<P: Machine> Drop for AddressSpace<P> {
    fn drop(&mut self) {
        if self.core.kind == SpaceKind::User {
            // Release pairs with the Acquire in `MemoryService::reap`.
            self.core.abandoned.store(true, Ordering::Release);
            self.core.service.note_work_anywhere();
        }
    }
}

impl<P: Machine> fmt::Debug for AddressSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}
