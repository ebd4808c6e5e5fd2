//! Handling page faults.

use core::cell::Cell;
use core::fmt;

use topomem_numa::frames::{AllocError, FrameRequest, Policy};
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, Order, PhysFrame};
use topomem_shootdown::{PageSize, VirtAddr};

use super::around::SpareFrames;
use super::first_touch::Touched;
use super::large::{SparePage, Wanted};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore, Unmapping, range_of_pages, size_of_level};
use crate::fault::{Fault, FaultCell};
use crate::object::{MemoryObject, PageWait};
use crate::page_table::{
    Access, Answer, Answered, Changed, Found, Leaf, Level, Neighbours, Ownership, Pages, Reach, RecordNumber,
    RegionId, RewriteError, TableMemory,
};
use crate::region::attributes::{Kind, Region};
use crate::region::calls::mmap::address;
use crate::region::numa::is_hidden;
use crate::region::object::SpareShare;
use crate::region::record::FaultClass;
use crate::service::memory::frame_memory;

/// The kind of a faulting access.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{FaultAccess, MapRequest, PageFault};
///
/// let space = service.create_space(pin)?;
/// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
/// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Read))?; // maps the frame of zeros
/// assert_eq!(space.mapped_pages(), 1);
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultAccess {
    /// A read.
    Read,
    /// A write.
    Write,
    /// An instruction fetch.
    Execute,
}

/// An access refused by the hardware.
///
/// ```
/// use topomem::VirtAddr;
/// use topomem::region::{FaultAccess, PageFault};
///
/// // In the page-fault handler, from CR2 and the error code:
/// let (address, error) = (VirtAddr::new_truncate(0x40_0123), 0b111_u64);
/// let access = if error & 2 != 0 { FaultAccess::Write } else { FaultAccess::Read };
/// let fault = PageFault::new(address, access);
/// let fault = if error & 1 != 0 { fault.not_permitted() } else { fault };
/// # let _ = fault;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFault {
    address: VirtAddr,
    access: FaultAccess,
    cause: Cause,
}

/// The hardware's finding at the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// No translation.
    NotPresent,
    /// A translation without permission for the access.
    NotPermitted,
    /// Unknown. The page has been awaited.
    Awaited,
}

impl PageFault {
    /// Returns the fault of an access to the byte at `address`.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{FaultAccess, MapRequest, PageFault};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// assert_eq!(space.mapped_pages(), 1);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub const fn new(address: VirtAddr, access: FaultAccess) -> PageFault {
        PageFault { address, access, cause: Cause::NotPresent }
    }

    /// Marks the fault as caused by a translation without permission for the access (bit 0 of the
    /// error code of x86). The result is the same, and cheaper if the mark is right.
    #[must_use]
    pub const fn not_permitted(self) -> PageFault {
        PageFault { cause: Cause::NotPermitted, ..self }
    }

    /// Marks the fault as repeated after a wait for [`FaultError::Waits`]. The fault then counts as
    /// [major](AddressSpace::major_faults), not as minor.
    #[must_use]
    pub const fn after_wait(self) -> PageFault {
        PageFault { cause: Cause::Awaited, ..self }
    }

    fn class(&self) -> FaultClass {
        match self.cause {
            Cause::Awaited => FaultClass::Major,
            Cause::NotPresent | Cause::NotPermitted => FaultClass::Minor,
        }
    }
}

/// The handling of a fault: the access may be repeated.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{FaultAccess, MapRequest, PageFault};
///
/// let space = service.create_space(pin)?;
/// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
/// let resolved = space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
/// println!("{resolved:?}"); // the program makes the access again
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resolved {
    /// The page is mapped to a frame of zeros.
    Zeroed,
    /// A page of this size around the address is mapped to frames of zeros.
    ZeroedLarge(PageSize),
    /// The page is mapped for reading to the frame of zeros shared by all spaces.
    ZeroPage,
    /// The page has got a copy of its shared frame.
    Copied,
    /// The page's formerly shared frame belongs to the space alone by now, and is writable.
    Reused,
    /// The page is mapped to a page of a memory object, whose frame may be shared.
    ObjectPage,
    /// The page has got a copy of a page of a memory object, without having been mapped to the
    /// object before.
    PrivateCopy,
    /// The mapped page of a memory object has become writable.
    MadeWritable,
    /// The access was permitted at the look: another CPU had handled its fault, or this CPU's
    /// translation was out of date.
    Spurious,
}

impl Resolved {
    /// Returns whether nothing was mapped before.
    fn maps(self) -> bool {
        matches!(
            self,
            Resolved::Zeroed
                | Resolved::ZeroedLarge(_)
                | Resolved::ZeroPage
                | Resolved::ObjectPage
                | Resolved::PrivateCopy
        )
    }
}

/// The reason why an access is not permitted, or not yet.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::VirtAddr;
/// use topomem::region::{FaultAccess, FaultError, PageFault};
///
/// let space = service.create_space(pin)?;
/// let wild = PageFault::new(VirtAddr::new(0x1000)?, FaultAccess::Read);
/// assert!(space.on_page_fault(pin, wild).is_err()); // SIGSEGV
/// # let _: Option<FaultError> = None;
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultError {
    /// The page belongs to no region (POSIX: SIGSEGV, SEGV_MAPERR).
    NotMapped,
    /// The page's region does not permit the access (SIGSEGV, SEGV_ACCERR).
    Denied,
    /// The page's region permits the access, but the page is a guard (SIGSEGV; Linux says
    /// SEGV_MAPERR).
    Guarded,
    /// No frame for the page, or for page tables.
    OutOfFrames(AllocError),
    /// No page of the size requested for the region (SIGBUS).
    NoLargePage(PageSize, AllocError),
    /// The page lies beyond the end of its memory object (SIGBUS, BUS_ADRERR).
    BeyondEnd,
    /// The page has to be read in by a pager. If the future resolves to `Ok`, the access, or the
    /// call, is to be repeated ([`PageFault::after_wait`]). If it resolves to an error, the pager
    /// failed: SIGBUS.
    Waits(PageWait),
    /// The page's frame has the greatest countable number of holders (SIGBUS).
    TooManySharers,
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultError::NotMapped => f.write_str("the page belongs to no region"),
            FaultError::Denied => f.write_str("the page's region does not permit such an access"),
            FaultError::Guarded => f.write_str("the page is a guard"),
            FaultError::OutOfFrames(error) => error.fmt(f),
            FaultError::NoLargePage(size, error) => write!(f, "no page of {} bytes: {error}", size.bytes()),
            FaultError::BeyondEnd => f.write_str("the page lies beyond the end of its object"),
            FaultError::Waits(_) => f.write_str("the page has to be read in"),
            FaultError::TooManySharers => f.write_str("the page's frame is shared by too many"),
        }
    }
}

impl core::error::Error for FaultError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            FaultError::OutOfFrames(error) => Some(error),
            FaultError::NoLargePage(_, error) => Some(error),
            _ => None,
        }
    }
}

/// The reason why a fault cannot be handled yet, or at all.
pub(in crate::region) enum Refusal<P: Machine> {
    Error(FaultError),
    /// This page of the object has to be in memory.
    NeedsPage(MemoryObject<P>, u64),
    /// The frame to share has changed.
    OtherShare,
    /// No neighbours are to be mapped.
    Alone,
    /// A frame of zeros is needed, placed by the region's policy.
    NeedsZeros(Option<Policy>),
    /// A frame for a copy is needed, placed by the region's policy.
    NeedsFrame(Option<Policy>),
    /// A page of zeros of this level is needed or wanted, placed by the region's policy.
    NeedsLarge(Level, Wanted, Option<Policy>),
    /// Remote CPUs may still use the former mapping of the page's 2 MiB.
    Pending,
    /// The page is on its way to another node.
    Moves,
}

/// The time a fault waits for a page on its way to another node, as a part of
/// [`Tlb::unresponsive_timeout`](topomem_shootdown::Tlb::unresponsive_timeout). The fault then takes the page back, since
/// the moving task may not run before this context proceeds.
const PART_OF_TIMEOUT: u64 = 2048;

/// Number of turns between two looks at the page.
const TURNS: u32 = 16;

/// A frame allocated for a page with possibly no need for it.
pub(in crate::region) struct Spare<'a, P: Machine> {
    core: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    page: u64,
    frame: Option<PhysFrame>,
    /// Whether the frame is known to be zeroed.
    zeroed: Zeroed,
    /// The region's policy used to place the frame.
    policy: Option<Policy>,
    large: SparePage<'a, P>,
    pub(in crate::region) share: SpareShare<'a, P>,
    /// The record of the page's region at the last look.
    record: Cell<Option<RecordNumber>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::region) enum Zeroed {
    Yes,
    No,
}

impl<P: Machine> Spare<'_, P> {
    fn fill(&mut self, zeroed: Zeroed, policy: Option<Policy>) -> Result<(), FaultError> {
        self.give_back();
        let request = match zeroed {
            Zeroed::Yes => self.core.service.blank(FrameRequest::frame()),
            Zeroed::No => FrameRequest::frame(),
        };
        let request = self.core.placed(request, self.page, policy);
        let frame = self.core.service.alloc(self.pin, &request).map_err(FaultError::OutOfFrames)?;
        frame_memory::take_over(self.core.service.frames(), frame);
        (self.frame, self.zeroed, self.policy) = (Some(frame), zeroed, policy);
        Ok(())
    }

    fn give_back(&mut self) {
        if let Some(frame) = self.frame.take() {
            // SAFETY: the frame was allocated for this fault, and is mapped nowhere.
            unsafe { frame_memory::release_own(self.core.service.frames(), self.pin, frame, Order::FRAME) };
        }
    }

    /// Returns the frame, if present, placed by this policy and zeroed if needed.
    pub(in crate::region) fn get(&self, zeroed: Zeroed, policy: Option<Policy>) -> Option<PhysFrame> {
        let fits = (zeroed == Zeroed::No || self.zeroed == Zeroed::Yes) && self.policy == policy;
        self.frame.filter(|_| fits)
    }
}

impl<P: Machine> Drop for Spare<'_, P> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Returns the 2 MiB around `page`.
fn huge_around(page: u64) -> Pages {
    let last = page | (Level::HUGE.pages() - 1);
    Pages { first: last - (Level::HUGE.pages() - 1), last }
}

/// Returns whether `access` permits the attempted access. Writable or executable pages are
/// readable.
#[inline]
pub(in crate::region) fn permits(access: Access, tried: FaultAccess) -> bool {
    match tried {
        FaultAccess::Read => access.reads(),
        FaultAccess::Write => access.writes(),
        FaultAccess::Execute => access.executes(),
    }
}

/// Returns whether a page in state `found` is on its way to another node.
#[cold]
fn moves(found: &Found) -> bool {
    matches!(found, Found::Mapped(leaf, Some(region)) if is_hidden(leaf, Region::of(*region)))
}

impl<P: Machine> AddressSpace<P> {
    /// Handles the fault of a program's access: maps the page if its region permits the access.
    ///
    /// A first write to private memory gets a frame of zeros, from the pool of zeroed frames if it
    /// has any. A first read gets the frame of zeros shared by all spaces. A write to a page shared
    /// with other spaces gets a copy, or the same frame if no other space has it any more. Faults
    /// of several CPUs at the same page are handled once, in turn. CPUs with faults in different 2
    /// MiB do not wait for each other, and write no memory in common once the page tables exist.
    ///
    /// If 2 MiB of a region are whole, and the region asked for or permits such pages, they are
    /// mapped at once ([`MapRequest::huge`](crate::region::MapRequest::huge),
    /// [`AddressSpace::set_huge_pages`]). Otherwise, a first write maps the number of pages set by
    /// [`AddressSpace::set_fault_around`].
    ///
    /// If the page's translation is replaced, the call waits until no CPU can use the old
    /// translation, and serves remote CPUs' shootdowns meanwhile. Not for interrupt handlers. Also
    /// for the kernel's own accesses to a program's memory.
    ///
    /// # Errors
    ///
    /// The page is unchanged on an error:
    ///
    /// - [`FaultError::NotMapped`], [`FaultError::Denied`], [`FaultError::Guarded`] or
    ///   [`FaultError::BeyondEnd`] if the access is not permitted.
    /// - [`FaultError::Waits`] if a pager has to read the page in.
    /// - [`FaultError::OutOfFrames`] or [`FaultError::NoLargePage`] if no memory is left.
    /// - [`FaultError::TooManySharers`] if the count of the frame's holders is full.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{FaultAccess, FaultError, MapRequest, PageFault, Resolved};
    /// use topomem::VirtAddr;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(4096))?;
    /// let write = PageFault::new(start, FaultAccess::Write);
    /// assert_eq!(space.on_page_fault(pin, write), Ok(Resolved::Zeroed));
    /// let nowhere = PageFault::new(VirtAddr::new(0x1000)?, FaultAccess::Read);
    /// assert_eq!(space.on_page_fault(pin, nowhere), Err(FaultError::NotMapped));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn on_page_fault(&self, pin: &CpuPin, fault: PageFault) -> Result<Resolved, FaultError> {
        let page = fault.address.as_u64() >> 12;
        if !self.may_map(Pages { first: page, last: page }) {
            return Err(FaultError::NotMapped);
        }
        let frame = match fault.cause {
            Cause::NotPresent => match self.touch_first(pin, page, fault.access)? {
                Touched::Mapped(resolved) => return Ok(resolved),
                Touched::Not(frame) => frame,
            },
            Cause::NotPermitted | Cause::Awaited => None,
        };
        self.answer(pin, fault, frame)
    }

    /// Handles any fault. `frame` is a frame of zeros allocated for the fault.
    #[inline(never)]
    fn answer(
        &self,
        pin: &CpuPin,
        fault: PageFault,
        frame: Option<PhysFrame>,
    ) -> Result<Resolved, FaultError> {
        let page = fault.address.as_u64() >> 12;
        let core = self.core();
        let large = SparePage::none(core, pin, page);
        let share = SpareShare::none(core, pin);
        let (zeroed, policy, record) = (Zeroed::Yes, None, Cell::new(None));
        let mut spare = Spare { core, pin, page, frame, zeroed, policy, large, share, record };
        if fault.cause == Cause::NotPresent
            && core.table.has_records()
            && let Some(resolved) = self.touch_object(pin, page, fault.access)
        {
            return Ok(resolved);
        }
        let mut around = SpareFrames::none(core, pin);
        let mut pages = Pages { first: page, last: page };
        if fault.access == FaultAccess::Write && fault.cause == Cause::NotPresent {
            // Most likely the first access to the page.
            if spare.get(Zeroed::Yes, None).is_none() {
                spare.fill(Zeroed::Yes, None)?;
            }
            let count = core.fault_policy.around();
            // With a policy of nodes, each page is placed by itself.
            if count > 1 && !core.policy.is_some() {
                pages = Pages { first: page & !(count - 1), last: page | (count - 1) };
                around.fill(count - 1);
            }
        }
        let mut has_waited = false;
        let seen = self.seen_before_claim(pin, fault.address);
        loop {
            let mut changed = Changed::NOTHING;
            let mut resolved = Resolved::Spurious;
            let decide = |found, level: Level| {
                let found = match (found, seen) {
                    (Found::Vacant, Some(region)) => Found::Reserved(region),
                    (found, _) => found,
                };
                let (answer, how) = self.decide(&spare, fault.access, page, found, level)?;
                if matches!(answer, Answer::Own(_)) && !has_waited && moves(&found) {
                    return Err(Refusal::Moves);
                }
                if how == Resolved::PrivateCopy && pages.first != pages.last {
                    return Err(Refusal::Alone);
                }
                resolved = how;
                Ok(answer)
            };
            let mut neighbours = Neighbours { page, pages, next: || around.pop() };
            let answered = || {
                if let Some(number) = spare.record.get() {
                    core.count_fault_of(pin, number, fault.class());
                }
            };
            let refusal = match core.resolve(pin, &mut neighbours, decide, answered, &mut changed) {
                Ok(Answered { recorded, replaced, beside }) => {
                    let mut mapped = 1 + beside;
                    match resolved {
                        Resolved::Zeroed | Resolved::Copied | Resolved::PrivateCopy => spare.frame = None,
                        Resolved::ObjectPage => spare.share.take(),
                        Resolved::ZeroedLarge(_) => mapped = spare.large.take(),
                        _ => {}
                    }
                    let counters = core.of_cpu(pin);
                    let count = match fault.class() {
                        FaultClass::Major => &counters.major_faults,
                        FaultClass::Minor => &counters.minor_faults,
                    };
                    // Relaxed: statistics.
                    count.fetch_add(1, Ordering::Relaxed);
                    match replaced {
                        Some(leaf) => {
                            let range = range_of_pages(Pages { first: page, last: page });
                            let fault = Fault::CowWithoutFlush;
                            Unmapping::announce_unless(fault, core, pin, range, changed, recorded).wait(pin);
                            // SAFETY: the leaf was replaced, and no CPU has its translation.
                            unsafe { frame_memory::release_leaf(core.service.frames(), pin, &leaf) };
                        }
                        None if resolved.maps() => core.count_mapped(pin, mapped),
                        None => {}
                    }
                    return Ok(resolved);
                }
                Err(RewriteError::Refused(refusal)) => refusal,
                Err(RewriteError::Tables(error)) => return Err(FaultError::OutOfFrames(error)),
            };
            match refusal {
                Refusal::Error(FaultError::NotMapped) => {
                    if !self.grow_stack(pin, page)? {
                        return Err(FaultError::NotMapped);
                    }
                }
                Refusal::Error(error) => return Err(error),
                Refusal::NeedsZeros(policy) => {
                    spare.fill(Zeroed::Yes, policy)?;
                    if policy.is_some() {
                        // The remaining pages' frames are placed by the space's policy.
                        pages = Pages { first: page, last: page };
                    }
                }
                Refusal::NeedsFrame(policy) => spare.fill(Zeroed::No, policy)?,
                Refusal::NeedsPage(object, of) => self.have_page(pin, &object, of)?,
                Refusal::OtherShare => spare.share.give_back(),
                Refusal::Alone => pages = Pages { first: page, last: page },
                Refusal::Pending => self.wait_for_pending(pin, page),
                Refusal::NeedsLarge(level, wanted, policy) => spare
                    .large
                    .fill(level, wanted, policy)
                    .map_err(|error| FaultError::NoLargePage(size_of_level(level), error))?,
                Refusal::Moves => {
                    self.wait_for_move(pin, page);
                    has_waited = true;
                }
            }
        }
    }

    /// Returns whether each CPU has flushed the earlier changes of the 2 MiB around `page`.
    fn is_quiet_at(&self, pin: &CpuPin, page: u64) -> bool {
        self.core().is_quiet(pin, huge_around(page))
    }

    /// Waits until each CPU has flushed the earlier changes of the 2 MiB around `page`.
    #[cold]
    fn wait_for_pending(&self, pin: &CpuPin, page: u64) {
        let range = || range_of_pages(huge_around(page));
        Unmapping::announce(self.core(), pin, range, Changed::NOTHING, None).wait(pin);
    }

    /// Returns `None`: the state of a page is read under the claim of its entry. If
    /// [`Fault::FaultAfterUnmap`] is injected, returns the page's region as of some time before.
    #[inline(always)]
    fn seen_before_claim(&self, pin: &CpuPin, address: VirtAddr) -> Option<RegionId> {
        let service = self.core().service;
        if !service.broken(Fault::FaultAfterUnmap) {
            return None;
        }
        let found = self.next_region(pin, VirtAddr::new_truncate(address.as_u64() & !0xfff));
        let found = found.filter(|range| range.start() <= address)?;
        FaultCell::gap(service.platform());
        Some(found.region().id())
    }

    /// Decides on the handling of `page`, in state `found` at `level`, with its entry claimed.
    fn decide(
        &self,
        spare: &Spare<'_, P>,
        tried: FaultAccess,
        page: u64,
        found: Found,
        level: Level,
    ) -> Result<(Answer, Resolved), Refusal<P>> {
        let leaf_at = |frame, protection, ownership, at| {
            Answer::Map(Leaf { frame, protection, reach: Reach::Space, ownership }, at)
        };
        let leaf = |frame, protection, ownership| leaf_at(frame, protection, ownership, Level::PAGE);
        let service = self.core().service;
        let (region, mapped) = match found {
            Found::Vacant => return Err(Refusal::Error(FaultError::NotMapped)),
            Found::Mapped(leaf, None) => {
                spare.record.set(None);
                let permitted = permits(leaf.protection.access(), tried);
                return if permitted {
                    Ok((Answer::Keep, Resolved::Spurious))
                } else {
                    Err(Refusal::Error(FaultError::Denied))
                };
            }
            Found::Reserved(region) => (Region::of(region), None),
            Found::Mapped(leaf, Some(region)) => (Region::of(region), Some(leaf)),
        };
        spare.record.set(region.record());
        if !permits(region.access(), tried) {
            return Err(Refusal::Error(FaultError::Denied));
        }
        if region.is_guard() {
            return Err(Refusal::Error(FaultError::Guarded));
        }
        if region.kind() == Kind::Object
            && mapped.is_none_or(|leaf| !permits(leaf.protection.access(), tried))
            && let Some(decided) = self.decide_object(spare, tried, page, region, mapped)
        {
            return decided;
        }
        let policy = self.core().policy_of(region);
        let zeros = || {
            let frame = spare.get(Zeroed::Yes, policy).ok_or(Refusal::NeedsZeros(policy))?;
            Ok((leaf(frame, region.protection(), Ownership::Owned), Resolved::Zeroed))
        };
        if level > Level::PAGE && mapped.is_none() {
            let (at, wanted) = self.level_of_first(region, level);
            if at > Level::PAGE && !spare.large.is_missing() {
                let page = spare.large.get(at, policy).ok_or(Refusal::NeedsLarge(at, wanted, policy))?;
                return Ok((
                    leaf_at(page, region.protection(), Ownership::Owned, at),
                    Resolved::ZeroedLarge(size_of_level(at)),
                ));
            }
        }
        match mapped {
            None if tried == FaultAccess::Write => zeros(),
            None => match service.zero_frame() {
                Some(frame) => {
                    let protection = if service.broken(Fault::ZeroPageWritable) {
                        region.protection()
                    } else {
                        region.protection_of_copies()
                    };
                    Ok((leaf(frame, protection, Ownership::Borrowed), Resolved::ZeroPage))
                }
                None => zeros(),
            },
            Some(mapped) if permits(mapped.protection.access(), tried) => {
                Ok((Answer::Keep, Resolved::Spurious))
            }
            // The entry permits less than the region: it does not own the frame alone.
            Some(mapped) => match mapped.ownership {
                Ownership::Owned => Ok((Answer::Own(region.protection()), Resolved::Reused)),
                // A large page is reused as a whole, or split, and its parts keep their holders. A
                // page made of small pages waits until no CPU reads the small pages.
                Ownership::Shared if level > Level::PAGE && !self.is_quiet_at(spare.pin, page) => {
                    Err(Refusal::Pending)
                }
                Ownership::Shared
                    if service.frames().is_sole_holder(mapped.frame, level)
                        || service.broken(Fault::ReuseWithSharer) =>
                {
                    Ok((Answer::Own(region.protection()), Resolved::Reused))
                }
                Ownership::Borrowed if Some(mapped.frame) == service.zero_frame() => zeros(),
                Ownership::Shared | Ownership::Borrowed => {
                    let frame = spare.get(Zeroed::No, policy).ok_or(Refusal::NeedsFrame(policy))?;
                    let old = mapped.frame + page % level.pages();
                    // SAFETY: the fault owns the new frame, and the claimed entry maps the old
                    // frame.
                    unsafe { frame_memory::copy(service.frames(), old, frame) };
                    Ok((leaf(frame, region.protection(), Ownership::Owned), Resolved::Copied))
                }
            },
        }
    }

    /// Waits, for a bounded time, until `page` is no longer on its way to another node.
    #[cold]
    fn wait_for_move(&self, pin: &CpuPin, page: u64) {
        let core = self.core();
        let platform = core.service.platform();
        let begin = platform.now();
        while moves(&core.table.look(core.service.tables(pin), page).0)
            && platform.now().since(begin).0 < platform.unresponsive_timeout().0 / PART_OF_TIMEOUT
        {
            (0..TURNS).for_each(|_| platform.relax());
        }
    }

    /// Maps the pages of `region` in `pages` now.
    pub(in crate::region) fn populate_region(
        &self,
        pin: &CpuPin,
        pages: Pages,
        region: Region,
    ) -> Result<(), FaultError> {
        let access = if region.access().writes() { FaultAccess::Write } else { FaultAccess::Read };
        self.populate(pin, pages, access).map_err(|(_, error)| error)
    }

    /// Maps `pages` now, like accesses of this kind. An error includes its page.
    pub(in crate::region) fn populate(
        &self,
        pin: &CpuPin,
        pages: Pages,
        access: FaultAccess,
    ) -> Result<(), (VirtAddr, FaultError)> {
        let mut page = pages.first;
        while page <= pages.last {
            let at = address(page);
            page += match self.on_page_fault(pin, PageFault::new(at, access)).map_err(|error| (at, error))? {
                Resolved::ZeroedLarge(size) => {
                    let count = size.bytes() >> 12;
                    count - page % count
                }
                _ => 1,
            };
        }
        Ok(())
    }

    /// Returns the number of faults handled without a wait for a pager. A fault counts once,
    /// however often it was tried.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{FaultAccess, MapRequest, PageFault};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// assert_eq!(space.minor_faults(), 1);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn minor_faults(&self) -> u64 {
        self.core().per_cpu.iter().map(|cpu| cpu.minor_faults.load(Ordering::Relaxed)).sum()
    }
}
