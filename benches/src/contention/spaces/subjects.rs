//! The two ways of keeping the regions of a space that are compared.

use std::collections::BTreeMap;

use topomem::frames::FrameRequest;
use topomem::region::{FaultAccess, MapRequest, PageFault};
use topomem::{AddressSpace, CpuPin, MemoryService, PageRange, PageSize, Protection, VirtAddr};

use super::platform::{Turns, boot, pin};
use super::rw_lock::RwLock;

/// Pages of each region.
pub(super) const PAGES: u64 = 16;

/// An address space that CPUs share, by their numbers.
pub(super) trait Space {
    /// Makes a region of [`PAGES`] pages, none of them mapped, and returns where it begins.
    fn mmap(&self, cpu: usize) -> VirtAddr;
    /// Maps the page at `address` to a frame of zeros.
    fn fault(&self, cpu: usize, address: VirtAddr);
    /// Removes the region that begins at `start`.
    fn munmap(&self, cpu: usize, start: VirtAddr);
    /// How often claims of page tables had to be waited for.
    fn claims_contended(&self) -> u64;
}

/// What topomem has: regions are in the page tables.
pub(super) struct OneLevel(AddressSpace<Turns>);

/// What most kernels have: regions are in a tree behind a lock of its own, page tables are below. The tree's
/// data are not observed, which is the best case for it.
pub(super) struct TwoLevel {
    service: &'static MemoryService<Turns>,
    space: AddressSpace<Turns>,
    /// The first page of each region, and how many pages it has.
    regions: RwLock<BTreeMap<u64, u64>>,
}

/// The first page that the two-level space gives out.
const FIRST_PAGE: u64 = 1 << 20;

fn create(cpus: usize) -> (&'static MemoryService<Turns>, AddressSpace<Turns>) {
    let service = boot(cpus);
    match service.create_space(&pin(0)) {
        Ok(space) => (service, space),
        Err(error) => panic!("topomem: {error}"),
    }
}

/// Takes what cannot fail here: there is memory enough.
fn sure<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("topomem: {error}"))
}

impl OneLevel {
    pub(super) fn new(cpus: usize) -> OneLevel {
        OneLevel(create(cpus).1)
    }
}

impl Space for OneLevel {
    fn mmap(&self, cpu: usize) -> VirtAddr {
        sure(self.0.mmap(&pin(cpu), &MapRequest::anonymous(PAGES << 12)))
    }

    fn fault(&self, cpu: usize, address: VirtAddr) {
        sure(self.0.on_page_fault(&pin(cpu), PageFault::new(address, FaultAccess::Write)));
    }

    fn munmap(&self, cpu: usize, start: VirtAddr) {
        let pin = pin(cpu);
        sure(self.0.munmap(&pin, start, PAGES << 12)).wait(&pin);
    }

    fn claims_contended(&self) -> u64 {
        self.0.locks().contended()
    }
}

impl TwoLevel {
    pub(super) fn new(cpus: usize) -> TwoLevel {
        let (service, space) = create(cpus);
        TwoLevel { service, space, regions: RwLock::new(BTreeMap::new()) }
    }

    /// Maps `page` to a frame of zeros.
    fn map(&self, pin: &CpuPin, page: VirtAddr) {
        let frame = sure(self.service.alloc(pin, &FrameRequest::frame().zeroed()));
        // SAFETY: the frame was just allocated, for this.
        let mapped =
            unsafe { self.space.map_owned(pin, page, PageSize::Size4KiB, frame, Protection::USER_DATA) };
        sure(mapped);
    }
}

impl Space for TwoLevel {
    fn mmap(&self, _: usize) -> VirtAddr {
        self.regions.write(|regions| {
            // The first gap, as a search by address finds it.
            let mut first = FIRST_PAGE;
            for (&start, &pages) in &*regions {
                if start - first >= PAGES {
                    break;
                }
                first = start + pages;
            }
            regions.insert(first, PAGES);
            VirtAddr::new_truncate(first << 12)
        })
    }

    fn fault(&self, cpu: usize, address: VirtAddr) {
        self.regions.read(|regions| {
            let page = address.as_u64() >> 12;
            let found = regions.range(..=page).next_back();
            assert!(found.is_some_and(|(start, pages)| page < start + pages), "{address} has no region");
            self.map(&pin(cpu), address);
        });
    }

    fn munmap(&self, cpu: usize, start: VirtAddr) {
        let pin = pin(cpu);
        let range = sure(PageRange::new(start, PAGES, PageSize::Size4KiB));
        let unmapping = self.regions.write(|regions| {
            regions.remove(&(start.as_u64() >> 12));
            sure(self.space.unmap(&pin, range))
        });
        unmapping.wait(&pin);
    }

    fn claims_contended(&self) -> u64 {
        self.space.locks().contended()
    }
}
