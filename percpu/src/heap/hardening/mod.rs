//! Measures that find wrong uses of memory: writes after a free, overflows, frees with another
//! layout.
//!
//! Each measure is a cargo feature, and a heap has the measures passed at its creation
//! ([`Heap::with_hardening`]). So a build without the features contains nothing of this module, and
//! a build with them may still have heaps without.
//!
//! An object of a hardened heap lies in a *block*, an allocation of the plain heap with room around
//! the object ([`Block`]). The block is computed from the object's layout alone, so a free with the
//! same layout finds the same block. The plain heap allocates and frees blocks; this module works
//! before and after, outside of all locks.
//!
//! Findings are reported to [`PageSource::reported`] at the end of the call. An object with a
//! finding is never handed out again.

mod block;
#[cfg(feature = "leak-tracking")]
mod inspection;
#[cfg(feature = "encoded-free-lists")]
mod links;
mod poison;
mod quarantine;
mod realloc;
mod report;
mod seal;
mod site;
mod tail;
#[cfg(feature = "leak-tracking")]
mod tracking;

use core::alloc::Layout;
use core::ptr::NonNull;

use super::large::run::Run;
use super::place::{Place, Room};
use super::{AllocError, Heap, InvalidFree, dangling};
use crate::slab::{SizeClass, WasLive};
use crate::{CpuPin, Order, PageSource, Platform};
use block::Block;
#[cfg(feature = "leak-tracking")]
pub(super) use inspection::Inspection;
pub use quarantine::QUARANTINE_BYTES;
pub(super) use quarantine::Quarantine;
pub use report::{Finding, Origin, Report};
use seal::Damage;
pub use site::{Caller, Site};
#[cfg(feature = "leak-tracking")]
pub use tracking::LiveObjects;

/// A measure against wrong uses of memory. Each measure needs the cargo feature of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Fills freed objects with a pattern, and checks the pattern before the memory is handed out
    /// again: finds writes after a free. Feature `poison`. Covers objects of slabs, not large
    /// objects.
    Poison,
    /// Surrounds each object with bytes checked by its free: finds writes over its ends, and frees
    /// with another layout. Feature `red-zones`.
    RedZones,
    /// Keeps freed objects back until [`QUARANTINE_BYTES`] of later objects were freed on the CPU,
    /// so that a write after the free does not hit memory of another owner. Feature `quarantine`.
    /// Covers objects of slabs, not large objects.
    Quarantine,
    /// Fills freed objects with zeros. Feature `zero-on-free`.
    ZeroOnFree,
    /// Records the allocating call and CPU for each object: `Heap::live_by_site` lists the live
    /// objects, and reports name the origin. Feature `leak-tracking`.
    Tracking,
}

impl Measure {
    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Returns true if this build has the measure's feature.
    const fn is_compiled(self) -> bool {
        match self {
            Measure::Poison => cfg!(feature = "poison"),
            Measure::RedZones => cfg!(feature = "red-zones"),
            Measure::Quarantine => cfg!(feature = "quarantine"),
            Measure::ZeroOnFree => cfg!(feature = "zero-on-free"),
            Measure::Tracking => cfg!(feature = "leak-tracking"),
        }
    }
}

/// The measures of a heap.
///
/// # Examples
///
/// ```
/// use topomem_percpu::{Hardening, Measure};
///
/// let hardening = Hardening::NONE.with(Measure::Poison);
/// assert!(!hardening.has(Measure::RedZones));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardening(u8);

impl Hardening {
    /// No measure: a plain heap.
    pub const NONE: Hardening = Hardening(0);

    /// All measures with features in this build.
    pub const ALL: Hardening = Hardening::NONE
        .with(Measure::Poison)
        .with(Measure::RedZones)
        .with(Measure::Quarantine)
        .with(Measure::ZeroOnFree)
        .with(Measure::Tracking);

    /// Adds `measure`, if the build has its feature.
    #[must_use]
    pub const fn with(self, measure: Measure) -> Hardening {
        if measure.is_compiled() { Hardening(self.0 | measure.bit()) } else { self }
    }

    /// Returns true if `measure` is in the set.
    #[must_use]
    pub const fn has(self, measure: Measure) -> bool {
        measure.is_compiled() && self.0 & measure.bit() != 0
    }

    /// Returns true if the set is not empty.
    pub(super) const fn is_some(self) -> bool {
        self.0 != 0
    }
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Creates an empty heap like [`Heap::new`], with measures against wrong uses.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Hardening, Heap, PageSource, Platform};
    /// # fn example<P: Platform, S: PageSource>(platform: P, source: S) {
    /// let heap = Heap::with_hardening(platform, source, Hardening::ALL);
    /// # }
    /// ```
    #[cfg(not(loom))]
    #[must_use]
    pub const fn with_hardening(platform: P, source: S, hardening: Hardening) -> Heap<P, S> {
        let mut heap = Heap::new(platform, source);
        heap.hardening = hardening;
        heap
    }

    /// Allocates for [`Heap::try_alloc`] in a heap with measures.
    pub(super) fn alloc_hardened(
        &self,
        layout: Layout,
        site: Option<Site>,
    ) -> Result<NonNull<u8>, AllocError> {
        self.alloc_hardened_by(layout, site, |outer| self.alloc_plain(outer))
    }

    /// Allocates like [`Heap::alloc_hardened`], with blocks allocated by `plain`.
    pub(super) fn alloc_hardened_by(
        &self,
        layout: Layout,
        site: Option<Site>,
        plain: impl Fn(Layout) -> Result<NonNull<u8>, AllocError>,
    ) -> Result<NonNull<u8>, AllocError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        let (size, align) = (layout.size(), layout.align());
        let block = Block::of(layout, self.hardening).ok_or(AllocError::TooLarge { size, align })?;
        loop {
            let memory = plain(block.outer)?;
            if let Some(class) = block.class()
                && self.hardening.has(Measure::Poison)
                && let Some(pattern) = poison::pattern(self.hardening)
            {
                // SAFETY: the block was just allocated.
                if let Err(offset) = unsafe { poison::check(memory, class, pattern) } {
                    self.keep_out(memory, class, offset);
                    continue;
                }
            }
            let pin = self.platform.pin();
            // SAFETY: the context owns the block.
            return Ok(unsafe { block.prepare(memory, pin.cpu(), site) });
        }
    }

    /// Reports a block written to while it was free, and takes it out of use.
    #[cold]
    fn keep_out(&self, memory: NonNull<u8>, class: SizeClass, offset: usize) {
        if let Some(Place::Object { slab, index, .. }) = self.place_of(memory) {
            // A remaining user of the memory may free it: that free is refused.
            slab.live().clear(index);
        }
        self.report(Finding::WriteAfterFree { offset }, memory.addr().get(), Some(class), None);
    }

    fn report(&self, finding: Finding, address: usize, class: Option<SizeClass>, origin: Option<Origin>) {
        let cpu = self.platform.pin().cpu();
        self.source.reported(&Report { finding, address, class, cpu, origin });
    }

    /// Frees for [`Heap::free`] in a heap with measures.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    pub(super) unsafe fn dealloc_hardened(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), InvalidFree> {
        if layout.size() == 0 {
            return Ok(());
        }
        let taken = self.check_hardened(memory, layout)?;
        let pin = self.platform.pin();
        // SAFETY: the caller releases the object, and `check_hardened` found its block.
        unsafe { self.free_block(&pin, &taken) }
    }

    /// Finds the block of the object at `memory`, if it is live with this `layout` and the bytes
    /// around it are intact. Otherwise reports the finding.
    fn check_hardened(&self, memory: NonNull<u8>, layout: Layout) -> Result<Taken, InvalidFree> {
        let (address, size) = (memory.addr().get(), layout.size());
        let Some(block) = Block::of(layout, self.hardening) else {
            return Err(self.refuse(InvalidFree::NotLarge { address, size }, None));
        };
        let found =
            block.start(memory).and_then(|start| Some((start, self.block_place(start, block.outer)?)));
        let Some((start, place)) = found else {
            let invalid = match block.class() {
                Some(class) => InvalidFree::NotInSlab { address, class },
                None => match self.runs.at(address) {
                    Some(Run::Cached(_)) => InvalidFree::LargeDoubleFree { address, size },
                    _ => InvalidFree::NotLarge { address, size },
                },
            };
            return Err(self.refuse(invalid, block.class()));
        };
        let class = match place {
            Place::Object { slab, index, class } => {
                if slab.live().get(index) == WasLive::No {
                    return Err(self.refuse(InvalidFree::DoubleFree { address, class }, Some(class)));
                }
                Some(class)
            }
            Place::Pages(_) => None,
        };
        // SAFETY: a block with that layout is at `start`, and was not freed.
        let invalid = match unsafe { block.check(start) } {
            Ok(()) => return Ok(Taken { address, start, place, outer: block.outer }),
            Err(Damage::OtherLayout { size, align }) => InvalidFree::OtherLayout { address, size, align },
            Err(Damage::Overwritten { offset }) => InvalidFree::Overwritten { address, size, offset },
        };
        // SAFETY: as above.
        let origin = unsafe { block.origin(start) };
        self.report(Finding::InvalidFree(invalid), address, class, origin);
        Err(invalid)
    }

    /// Returns the place of the block at `start` in the record of all runs, if the block was
    /// allocated, or left there, with the layout.
    fn block_place(&self, start: NonNull<u8>, outer: Layout) -> Option<Place> {
        let (place, room) = (self.place_of(start)?, Room::of(outer)?);
        if place.room() == room { Some(place) } else { self.left_place(start, room) }
    }

    /// Reports a refused free.
    #[cold]
    fn refuse(&self, invalid: InvalidFree, class: Option<SizeClass>) -> InvalidFree {
        self.report(Finding::InvalidFree(invalid), invalid.address(), class, None);
        invalid
    }

    /// Returns a block to the plain heap.
    ///
    /// # Safety
    ///
    /// The caller releases the object, and owns it unless another context frees it.
    unsafe fn free_block(&self, pin: &CpuPin, taken: &Taken) -> Result<(), InvalidFree> {
        match taken.place {
            Place::Pages(run) => {
                // SAFETY: the caller's promise, and the run is on record.
                let freed = unsafe {
                    if self.hardening.has(Measure::ZeroOnFree) {
                        poison::fill_bytes(taken.start, run.length.bytes() as usize, 0);
                    }
                    if Room::of(taken.outer) == Some(taken.place.room()) {
                        self.dealloc_large(pin, taken.start, taken.outer)
                    } else {
                        // The object was left there. To the source, so its mark cannot confirm a
                        // wrong layout.
                        self.free_large(pin, taken.start, run)
                    }
                };
                freed.map_err(|invalid| self.refuse(invalid, None))
            }
            Place::Object { slab, class, index } => {
                // Of two concurrent frees, exactly one clears the bit.
                if slab.live().clear(index) == WasLive::No {
                    let invalid = InvalidFree::DoubleFree { address: taken.address, class };
                    return Err(self.refuse(invalid, Some(class)));
                }
                // SAFETY: the context owns the block by now.
                unsafe {
                    match poison::pattern(self.hardening) {
                        Some(pattern) => poison::fill(taken.start, class, pattern),
                        None => poison::strike(taken.start, class),
                    }
                    if self.hardening.has(Measure::Quarantine) {
                        self.put_in_quarantine(pin, slab, class, taken.start)
                    } else {
                        self.put_back(pin, slab, class, taken.start)
                    }
                }
            }
        }
    }

    /// Prepares a run for its use as a slab.
    ///
    /// # Safety
    ///
    /// The caller owns the run.
    pub(super) unsafe fn harden_slab(&self, run: NonNull<u8>, order: Order) {
        if self.hardening.has(Measure::Poison)
            && let Some(pattern) = poison::pattern(self.hardening)
        {
            // SAFETY: the caller's promise.
            unsafe { poison::fill_run(run, order, pattern) };
        }
    }
}

/// A block of a live object.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// The address of the object.
    address: usize,
    start: NonNull<u8>,
    outer: Layout,
    place: Place,
}
