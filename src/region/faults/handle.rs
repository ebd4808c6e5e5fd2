//! Handling a page fault: look, decide, change the entry, and repeat if something was missing.

use core::cell::Cell;

use topomem_numa::frames::Policy;
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, PhysFrame};
use topomem_shootdown::VirtAddr;

use super::around::SpareFrames;
use super::decide::{Refusal, moves};
use super::fault::{Cause, FaultAccess, FaultError, PageFault, Resolved};
use super::first_touch::Touched;
use super::large::SparePage;
use super::object::SpareShare;
use super::spare::{Spare, Zeroed};
use crate::Machine;
use crate::address_space::{AddressSpace, Unmapping, range_of_pages, size_of_level};
use crate::fault::points::Announced;
use crate::page_table::{Answer, Answered, Changed, Found, Level, Neighbours, Pages, RegionId, RewriteError};
use crate::region::attributes::Region;
use crate::region::calls::mmap::address;
use crate::region::numa::Placer;
use crate::region::record::FaultClass;
use crate::service::memory::frame_memory;

/// The time a fault waits for a page on its way to another node, as a part of
/// [`Tlb::unresponsive_timeout`](topomem_shootdown::Tlb::unresponsive_timeout). The fault then takes the page back, since
/// the moving task may not run before this context proceeds.
const PART_OF_TIMEOUT: u64 = 2048;

/// Number of turns between two looks at the page.
const TURNS: u32 = 16;

/// Returns the 2 MiB around `page`.
fn huge_around(page: u64) -> Pages {
    let last = page | (Level::HUGE.pages() - 1);
    Pages { first: last - (Level::HUGE.pages() - 1), last }
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
        let (zeroed, placer, record) = (Zeroed::Yes, Placer::SPACE, Cell::new(None));
        let policy = Cell::new(Policy::Local);
        let mut spare = Spare { core, pin, page, frame, zeroed, placer, policy, large, share, record };
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
            if spare.get(Zeroed::Yes, Placer::SPACE).is_none() {
                spare.fill(Zeroed::Yes, Placer::SPACE)?;
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
                            let change = Announced::Copy;
                            Unmapping::announce_change(change, core, pin, range, changed, recorded).wait(pin);
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
                Refusal::NeedsZeros(placer) => {
                    spare.fill(Zeroed::Yes, placer)?;
                    if placer != Placer::SPACE {
                        // The remaining pages' frames are placed by the space's policy.
                        pages = Pages { first: page, last: page };
                    }
                }
                Refusal::NeedsFrame(placer) => spare.fill(Zeroed::No, placer)?,
                Refusal::NeedsPage(object, of) => self.have_page(pin, &object, of)?,
                Refusal::OtherShare => spare.share.give_back(),
                Refusal::Alone => pages = Pages { first: page, last: page },
                Refusal::Pending => self.wait_for_pending(pin, page),
                Refusal::NeedsLarge(level, wanted, placer) => spare
                    .large
                    .fill(level, wanted, placer, placer.policy(&mut spare.policy))
                    .map_err(|error| FaultError::NoLargePage(size_of_level(level), error))?,
                Refusal::Moves => {
                    self.wait_for_move(pin, page);
                    has_waited = true;
                }
            }
        }
    }

    /// Returns whether each CPU has flushed the earlier changes of the 2 MiB around `page`.
    pub(super) fn is_quiet_at(&self, pin: &CpuPin, page: u64) -> bool {
        self.core().is_quiet(pin, huge_around(page))
    }

    /// Waits until each CPU has flushed the earlier changes of the 2 MiB around `page`.
    #[cold]
    fn wait_for_pending(&self, pin: &CpuPin, page: u64) {
        let range = || range_of_pages(huge_around(page));
        Unmapping::announce(self.core(), pin, range, Changed::NOTHING, None).wait(pin);
    }

    /// Returns `None`: the state of a page is read under the claim of its entry. A fault point.
    #[inline(always)]
    fn seen_before_claim(&self, pin: &CpuPin, address: VirtAddr) -> Option<RegionId> {
        let service = self.core().service;
        service.fault.look_before_claim(service.platform(), || {
            let found = self.next_region(pin, VirtAddr::new_truncate(address.as_u64() & !0xfff));
            found.filter(|range| range.start() <= address).map(|found| found.region().id())
        })
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
