//! Collapsing small pages into pages of 2 MiB (MADV_COLLAPSE).

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_percpu::{CpuPin, PhysFrame};
use topomem_shootdown::{PageRange, PageSize, VirtAddr};

use super::mmap::{address, is_aligned, range_at};
use crate::Machine;
use crate::address_space::{AddressSpace, PromoteError, SpaceCore, Unmapping, range_of_pages};
use crate::page_table::{
    Changed, Collapse, Collapsed, Level, Pages, Protection, RegionId, Reserve, TableMemory, Unpromoted,
};
use crate::region::attributes::{Kind, Region};
use crate::region::faults::large::{SparePage, Wanted};
use crate::region::numa::Placer;
use crate::service::memory::frame_memory;

/// The reason why pages were not collapsed. Earlier pages of the range have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CollapseError {
    /// The address is no multiple of the page size (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves the part of the space allowed for mappings (ENOMEM).
    OutsideSpace,
    /// The 2 MiB at this address do not belong to a single region of private memory, or are
    /// executable (EINVAL).
    Unfit(VirtAddr),
    /// Other threads have written to the 2 MiB at this address all the time (EAGAIN).
    Busy(VirtAddr),
    /// No 2 MiB of free memory, or no frame for page tables (ENOMEM).
    OutOfFrames(AllocError),
}

impl fmt::Display for CollapseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CollapseError::Misaligned(address) => write!(f, "{address} is not aligned to a page"),
            CollapseError::OutsideSpace => f.write_str("the range leaves what the space may map"),
            CollapseError::Unfit(address) => write!(f, "no 2 MiB of one region at {address}"),
            CollapseError::Busy(address) => write!(f, "the 2 MiB at {address} are written all the time"),
            CollapseError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CollapseError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            CollapseError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

/// Greatest number of times rewritten pages are frozen again.
const MOST_ROUNDS: u32 = 16;

struct Ask<'a, P: Machine> {
    core: &'static SpaceCore<P>,
    pin: &'a CpuPin,
}

impl<P: Machine> Collapse for Ask<'_, P> {
    fn protection(&self, region: RegionId) -> Protection {
        Region::of(region).protection()
    }

    fn is_zero_at_first(&self, region: RegionId) -> bool {
        Region::of(region).kind() != Kind::Object
    }

    fn is_zero(&self, frame: PhysFrame) -> bool {
        self.core.service.zero_frame() == Some(frame)
    }

    fn is_quiet(&self, pages: Pages) -> bool {
        self.core.is_quiet(self.pin, pages)
    }

    fn copy(&self, from: PhysFrame, to: PhysFrame) {
        // SAFETY: a leaf of the space, whose entry is claimed, maps `from`; `to` belongs to the run
        // given to the collapse.
        unsafe { frame_memory::copy(self.core.service.frames(), from, to) };
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Collapses each aligned 2 MiB inside the `length` bytes from `start` on into a single page,
    /// if it belongs to a single region and has a mapped page. Unmapped pages become mapped.
    /// Contents stay the same, for other threads too; their writes wait meanwhile.
    ///
    /// Small pages with consecutive frames owned by the space keep their frames. Others are copied
    /// to frames placed by the region's policy, or otherwise the space's. Waits for remote CPUs up
    /// to three times for each 2 MiB, and serves their shootdowns meanwhile. The 2 MiB are claimed
    /// during the copy.
    ///
    /// ```
    /// # use topomem::sim::Sim;
    /// use topomem::region::{FaultAccess, MapRequest, PageFault, Placement};
    /// use topomem::{CpuId, PageSize, VirtAddr};
    ///
    /// # let sim = Sim::builder().memory(64 << 20).build()?;
    /// # let service = sim.boot_service()?;
    /// # sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
    /// let space = service.create_space(pin)?;
    /// let start = VirtAddr::new(1 << 30).unwrap();
    /// space.mmap(pin, &MapRequest::anonymous(2 << 20).placed(Placement::Fixed(start)))?;
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// space.collapse(pin, start, 2 << 20)?;
    /// assert_eq!(space.translate(pin, start).unwrap().size, PageSize::Size2MiB);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Contents have not changed on an error:
    ///
    /// - [`CollapseError::Misaligned`] or [`CollapseError::OutsideSpace`] if the range is invalid.
    /// - [`CollapseError::Unfit`] or [`CollapseError::Busy`] names the first 2 MiB not collapsed.
    /// - [`CollapseError::OutOfFrames`] if no memory is left.
    pub fn collapse(&self, pin: &CpuPin, start: VirtAddr, length: u64) -> Result<(), CollapseError> {
        if !is_aligned(start) {
            return Err(CollapseError::Misaligned(start));
        }
        if length == 0 {
            return Ok(());
        }
        let pages = range_at(start, length).filter(|pages| self.may_map(*pages));
        let pages = pages.ok_or(CollapseError::OutsideSpace)?;
        let huge = Level::HUGE.pages();
        let (first, end) = (pages.first.next_multiple_of(huge), (pages.last + 1) & !(huge - 1));
        (first..end).step_by(huge as usize).try_for_each(|first| self.collapse_one(pin, first))
    }

    fn collapse_one(&self, pin: &CpuPin, first: u64) -> Result<(), CollapseError> {
        let at = address(first);
        let end = first + Level::HUGE.pages();
        if self
            .next_region(pin, at)
            .is_some_and(|range| range.region().kind() == Kind::Object && range.start().as_u64() >> 12 < end)
        {
            return Err(CollapseError::Unfit(at));
        }
        if let Ok(range) = PageRange::new(at, 1, PageSize::Size2MiB) {
            match self.promote(pin, range) {
                Ok(promotion) => {
                    promotion.wait(pin);
                    return Ok(());
                }
                Err(PromoteError::OutOfFrames(error)) => return Err(CollapseError::OutOfFrames(error)),
                Err(_) => {}
            }
        }
        let core = self.core();
        let frames = core.service.frames();
        let range = range_of_pages(Pages { first, last: first + Level::HUGE.pages() - 1 });
        let policy = self.region_policy(pin, at).ok().flatten();
        let mut spare = SparePage::none(core, pin, first);
        let filled = spare.fill(Level::HUGE, Wanted::Needed, Placer::SPACE, policy.as_ref());
        filled.map_err(CollapseError::OutOfFrames)?;
        let into = spare.get(Level::HUGE, Placer::SPACE).ok_or(CollapseError::Unfit(at))?;
        // The leaf shares the run, with a single holder: two are counted, and one is given back.
        let counted = frames.share(into, Level::HUGE);
        debug_assert!(counted.is_ok(), "a new run has room for holders");
        frames.drop_share(into, Level::HUGE);
        let mut reserve = Reserve::new(frames, pin);
        let mut rounds = 0;
        while rounds < MOST_ROUNDS {
            let mut changed = Changed::NOTHING;
            let record = |changed: &mut Changed| core.record(changed);
            let ask = Ask { core, pin };
            let access = core.service.tables(pin);
            match core.table.collapse(access, &mut reserve, (first, into), &ask, &mut changed, record) {
                Ok(Collapsed::Same) => return Ok(()),
                Ok(Collapsed::Frozen(recorded)) => {
                    Unmapping::announce(core, pin, || range, changed, recorded).wait(pin);
                    rounds += 1;
                }
                Ok(Collapsed::Done { recorded, leaves }) => {
                    core.count_mapped(pin, spare.take() - leaves);
                    Unmapping::announce(core, pin, || range, changed, recorded).wait(pin);
                    return Ok(());
                }
                Err(Unpromoted::Unfit(_)) => return Err(CollapseError::Unfit(at)),
                Err(Unpromoted::Tables(error)) => {
                    let refilled = core.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(CollapseError::OutOfFrames)?;
                }
            }
        }
        Err(CollapseError::Busy(at))
    }
}
