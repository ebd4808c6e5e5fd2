//! Pages of 2 MiB and 1 GiB for regions.

use topomem_numa::frames::{AllocError, FrameRequest, Policy};
use topomem_percpu::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order};
use x86_64::structures::paging::PhysFrame;

use super::attributes::{Region, Transparent};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore};
use crate::page_table::Level;
use crate::service::frame_memory;

/// Which regions of a space get pages of 2 MiB though they did not ask for a page size (transparent huge
/// pages).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HugePages {
    /// None: faults map pages of 4 KiB, whatever was advised.
    Never = 0,
    /// Those that [`Advice::Huge`](super::Advice::Huge) was given for.
    Advised = 1,
    /// All that are made from now on, but those that [`Advice::NoHuge`](super::Advice::NoHuge) was given for.
    Always = 2,
}

/// How a space's faults are answered.
#[derive(Debug)]
pub(crate) struct FaultPolicy {
    huge: AtomicU8,
    around: AtomicU64,
}

/// The most pages that one fault maps.
const MOST_AROUND: u64 = 64;

// Relaxed, below: settings, which order nothing.
impl FaultPolicy {
    /// The policy of a new space: huge pages where they were advised, and one page for a fault.
    pub(crate) fn new() -> FaultPolicy {
        FaultPolicy { huge: AtomicU8::new(HugePages::Advised as u8), around: AtomicU64::new(1) }
    }

    fn huge(&self) -> HugePages {
        match self.huge.load(Ordering::Relaxed) {
            0 => HugePages::Never,
            2 => HugePages::Always,
            _ => HugePages::Advised,
        }
    }

    /// Returns how many pages a fault maps: a power of two.
    #[inline]
    pub(crate) fn around(&self) -> u64 {
        self.around.load(Ordering::Relaxed)
    }

    /// Gives another space, which no program runs in yet, the same policy.
    pub(crate) fn copy_to(&self, copy: &FaultPolicy) {
        copy.huge.store(self.huge.load(Ordering::Relaxed), Ordering::Relaxed);
        copy.around.store(self.around.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Says which regions get pages of 2 MiB that did not ask for a page size. A new space has
    /// [`HugePages::Advised`]; a fork has what its origin has.
    ///
    /// [`HugePages::Never`] concerns all faults from now on. The other two decide for the regions that are
    /// made from now on, and bring those back that were made before.
    pub fn set_huge_pages(&self, setting: HugePages) {
        self.core().fault_policy.huge.store(setting as u8, Ordering::Relaxed);
    }

    /// Returns which regions get pages of 2 MiB that did not ask for a page size.
    #[must_use]
    pub fn huge_pages(&self) -> HugePages {
        self.core().fault_policy.huge()
    }

    /// Says how many pages a fault of a first write maps: a power of two up to 64; other numbers are rounded
    /// down. A new space has 1; a fork has what its origin has.
    ///
    /// Besides the page itself, those pages of the aligned group around the page are mapped that belong to the
    /// same region and are not mapped yet. So a program that writes its pages in turn has fewer faults, and one
    /// that writes few of its pages has more memory.
    pub fn set_fault_around(&self, pages: u64) {
        let pages = 1 << pages.clamp(1, MOST_AROUND).ilog2();
        self.core().fault_policy.around.store(pages, Ordering::Relaxed);
    }

    /// Returns how many pages a fault of a first write maps.
    #[must_use]
    pub fn fault_around(&self) -> u64 {
        self.core().fault_policy.around()
    }

    /// Returns the region as it is made in this space.
    pub(super) fn as_made_here(&self, region: Region) -> Region {
        let always = self.core().fault_policy.huge() == HugePages::Always;
        region.with_transparent(if always { Transparent::Permitted } else { Transparent::Never })
    }

    /// Returns the level of the leaf that answers a first access to a page of `region`, which is not mapped,
    /// as far as all pages are that an entry of `level` covers; and whether a smaller one does as well.
    pub(super) fn level_of_first(&self, region: Region, level: Level) -> (Level, Wanted) {
        match region.kind().level() {
            Level::PAGE if region.transparent() == Transparent::Never => (Level::PAGE, Wanted::Needed),
            Level::PAGE if self.core().fault_policy.huge() == HugePages::Never => {
                (Level::PAGE, Wanted::Needed)
            }
            Level::PAGE => (level.min(Level::HUGE), Wanted::IfFree),
            asked => (asked.min(level), Wanted::Needed),
        }
    }
}

/// May a large page be replaced by small ones?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// No: the program has asked for it.
    Needed,
    /// Yes, if none is free.
    IfFree,
}

/// A large page of zeros, allocated for a fault that may not need it.
pub(super) struct SparePage<'a, P: Machine> {
    core: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    /// The page of 4 KiB that it is to map.
    maps: u64,
    page: Option<(PhysFrame, Level)>,
    /// The region's policy that it was placed by.
    policy: Option<Policy>,
    /// Was none to be had?
    missing: bool,
}

impl<'a, P: Machine> SparePage<'a, P> {
    pub fn none(core: &'static SpaceCore<P>, pin: &'a CpuPin, maps: u64) -> SparePage<'a, P> {
        SparePage { core, pin, maps, page: None, policy: None, missing: false }
    }

    /// Allocates a page of `level`, zeroed: with no claim held, since that takes long. If none is wanted but
    /// if it is free, waits for nothing and remembers if there was none.
    pub fn fill(&mut self, level: Level, wanted: Wanted, policy: Option<Policy>) -> Result<(), AllocError> {
        self.give_back();
        self.policy = policy;
        let (service, frames) = (self.core.service, self.core.service.frames());
        let placed = |request| self.core.placed(request, self.maps / level.pages(), policy);
        let run = placed(service.blank(FrameRequest::order(Order::HUGE)));
        let page = match wanted {
            Wanted::IfFree => match frames.alloc(self.pin, &run) {
                Ok(page) => page,
                Err(_) => {
                    self.missing = true;
                    return Ok(());
                }
            },
            Wanted::Needed if level == Level::HUGE => service.alloc(self.pin, &run)?,
            Wanted::Needed => {
                let count = level.pages();
                let request = placed(service.blank(FrameRequest::frame()));
                let attempt = || frames.alloc_run(self.pin, &request, count, count);
                let page = attempt().or_else(|error| service.relieve(self.pin, error, attempt))?;
                frames.divide_run(page, count);
                page
            }
        };
        runs_of(page, level).for_each(|run| {
            frame_memory::take_over(frames, run);
        });
        self.page = Some((page, level));
        Ok(())
    }

    /// Returns the page if it is of `level`, and placed by this policy.
    pub fn get(&self, level: Level, policy: Option<Policy>) -> Option<PhysFrame> {
        self.page.filter(|&(_, of)| of == level && self.policy == policy).map(|(page, _)| page)
    }

    /// Was a page wanted, and none free?
    pub fn is_missing(&self) -> bool {
        self.missing
    }

    /// The page was mapped: it is the space's. Returns how many pages of 4 KiB it has.
    pub fn take(&mut self) -> u64 {
        self.page.take().map_or(0, |(_, level)| level.pages())
    }

    fn give_back(&mut self) {
        if let Some((page, level)) = self.page.take() {
            runs_of(page, level).for_each(|run| {
                // SAFETY: it was allocated for this fault, and is mapped nowhere.
                unsafe {
                    frame_memory::release_own(self.core.service.frames(), self.pin, run, Order::HUGE);
                }
            });
        }
    }
}

impl<P: Machine> Drop for SparePage<'_, P> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The runs of 2 MiB that a page of `level` consists of.
fn runs_of(page: PhysFrame, level: Level) -> impl Iterator<Item = PhysFrame> {
    (0..level.pages()).step_by(Level::HUGE.pages() as usize).map(move |run| page + run)
}
