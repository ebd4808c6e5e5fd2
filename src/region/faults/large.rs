//! Pages of 2 MiB and 1 GiB for regions.

use topomem_numa::frames::{AllocError, FrameRequest, Policy};
use topomem_percpu::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order, PhysFrame};

use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore};
use crate::page_table::Level;
use crate::region::attributes::{Region, Transparent};
use crate::region::numa::Placer;
use crate::service::memory::frame_memory;

/// The regions of a space mapped with pages of 2 MiB without having requested a page size
/// (transparent huge pages).
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::HugePages;
///
/// let space = service.create_space(pin)?;
/// assert_eq!(space.huge_pages(), HugePages::Advised);
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HugePages {
    /// None: faults map pages of 4 KiB, whatever the advice.
    Never = 0,
    /// Regions with the advice [`Advice::Huge`](crate::region::Advice::Huge).
    Advised = 1,
    /// All later regions, except those with the advice [`Advice::NoHuge`](crate::region::Advice::NoHuge).
    Always = 2,
}

/// The handling of a space's faults.
#[derive(Debug)]
pub(crate) struct FaultPolicy {
    huge: AtomicU8,
    around: AtomicU64,
}

/// Greatest number of pages mapped by a fault.
const MOST_AROUND: u64 = 64;

// Relaxed, below: settings, which order nothing.
impl FaultPolicy {
    /// Returns the policy of a new space: huge pages by advice, and a single page for a fault.
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

    /// Returns the number of pages mapped by a fault: a power of two.
    #[inline]
    pub(crate) fn around(&self) -> u64 {
        self.around.load(Ordering::Relaxed)
    }

    /// Copies the policy to a space without a running program.
    pub(crate) fn copy_to(&self, copy: &FaultPolicy) {
        copy.huge.store(self.huge.load(Ordering::Relaxed), Ordering::Relaxed);
        copy.around.store(self.around.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Sets which regions without a requested page size get pages of 2 MiB. A new space has
    /// [`HugePages::Advised`]; a fork has its origin's setting.
    ///
    /// [`HugePages::Never`] concerns all later faults. The remaining two decide for later regions,
    /// and restore earlier regions' own settings.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::HugePages;
    ///
    /// let space = service.create_space(pin)?;
    /// space.set_huge_pages(HugePages::Always);
    /// assert_eq!(space.huge_pages(), HugePages::Always);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_huge_pages(&self, setting: HugePages) {
        self.core().fault_policy.huge.store(setting as u8, Ordering::Relaxed);
    }

    /// Returns which regions without a requested page size get pages of 2 MiB.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::HugePages;
    ///
    /// let space = service.create_space(pin)?;
    /// space.set_huge_pages(HugePages::Always);
    /// assert_eq!(space.huge_pages(), HugePages::Always);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn huge_pages(&self) -> HugePages {
        self.core().fault_policy.huge()
    }

    /// Sets the number of pages mapped by the fault of a first write: a power of two up to 64.
    /// Other numbers are rounded down. A new space has 1; a fork has its origin's setting.
    ///
    /// Besides the page itself, the fault maps the unmapped pages of the same region in the aligned
    /// group around the page. A program writing its pages in turn then has fewer faults, and a
    /// program writing few of its pages takes more memory.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{FaultAccess, MapRequest, PageFault};
    ///
    /// let space = service.create_space(pin)?;
    /// space.set_fault_around(16);
    /// let start = space.mmap(pin, &MapRequest::anonymous(2 << 20))?;
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// assert_eq!(space.mapped_pages(), 16);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_fault_around(&self, pages: u64) {
        let pages = 1 << pages.clamp(1, MOST_AROUND).ilog2();
        self.core().fault_policy.around.store(pages, Ordering::Relaxed);
    }

    /// Returns the number of pages mapped by the fault of a first write.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// let space = service.create_space(pin)?;
    /// space.set_fault_around(16);
    /// assert_eq!(space.fault_around(), 16);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn fault_around(&self) -> u64 {
        self.core().fault_policy.around()
    }

    /// Returns the region with the attributes of new regions in this space.
    pub(in crate::region) fn as_made_here(&self, region: Region) -> Region {
        let always = self.core().fault_policy.huge() == HugePages::Always;
        region.with_transparent(if always { Transparent::Permitted } else { Transparent::Never })
    }

    /// Returns the level of the leaf for a first access to an unmapped page of `region`, if all
    /// pages covered by an entry of `level` are unmapped; and whether a smaller leaf would do.
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

/// Whether a large page may be replaced by small pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::region) enum Wanted {
    /// No: the program has requested the page size.
    Needed,
    /// Yes, if none is free.
    IfFree,
}

/// A large page of zeros, allocated for a fault with possibly no need for it.
pub(in crate::region) struct SparePage<'a, P: Machine> {
    core: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    /// The 4 KiB page to be mapped.
    maps: u64,
    page: Option<(PhysFrame, Level)>,
    /// Whose policy placed the page.
    placer: Placer,
    /// Whether no page was free.
    missing: bool,
}

impl<'a, P: Machine> SparePage<'a, P> {
    pub(crate) fn none(core: &'static SpaceCore<P>, pin: &'a CpuPin, maps: u64) -> SparePage<'a, P> {
        SparePage { core, pin, maps, page: None, placer: Placer::SPACE, missing: false }
    }

    /// Allocates a zeroed page of `level`. Called with no claim held, since zeroing takes long. If
    /// the page is only wanted if free, never waits, and remembers the lack of a page.
    /// The page is placed by `policy`, which is `placer`'s, or otherwise by the space's.
    pub(crate) fn fill(
        &mut self,
        level: Level,
        wanted: Wanted,
        placer: Placer,
        policy: Option<&Policy>,
    ) -> Result<(), AllocError> {
        self.give_back();
        self.placer = placer;
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
                let page = attempt().or_else(|error| service.reclaim_and_retry(self.pin, error, attempt))?;
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
    pub(crate) fn get(&self, level: Level, placer: Placer) -> Option<PhysFrame> {
        self.page.filter(|&(_, of)| of == level && self.placer == placer).map(|(page, _)| page)
    }

    /// Returns whether a page was wanted, and none free.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing
    }

    /// Notes the mapping of the page, which belongs to the space. Returns its number of 4 KiB
    /// pages.
    pub(crate) fn take(&mut self) -> u64 {
        self.page.take().map_or(0, |(_, level)| level.pages())
    }

    fn give_back(&mut self) {
        if let Some((page, level)) = self.page.take() {
            runs_of(page, level).for_each(|run| {
                // SAFETY: the page was allocated for this fault, and is mapped nowhere.
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

/// Returns the runs of 2 MiB of a page of `level`.
fn runs_of(page: PhysFrame, level: Level) -> impl Iterator<Item = PhysFrame> {
    (0..level.pages()).step_by(Level::HUGE.pages() as usize).map(move |run| page + run)
}
