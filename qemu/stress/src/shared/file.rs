//! A file that all CPUs map, write to, have written back, and let leave memory.

use alloc::vec::Vec;
use core::convert::Infallible;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use topomem::frames::AllocError;
use topomem::object::{MemoryObject, ObjectMapping, Pager, PagerError, PagerQueue};
use topomem::region::{MapRequest, Sharing};
use topomem::{AddressSpace, CpuId, CpuPin, Machine, MemoryService, VirtAddr};

/// How many pages the file has.
pub(crate) const FILE_PAGES: usize = 4;

/// How many words a page has: each CPU below that number has one for itself.
pub(crate) const FILE_WORDS: usize = 512;

const BYTES: u64 = FILE_PAGES as u64 * 4096;

/// A number for each word of the file.
struct Words(Vec<AtomicU64>);

impl Words {
    fn zeros() -> Option<Words> {
        let mut words = Vec::new();
        words.try_reserve_exact(FILE_PAGES * FILE_WORDS).ok()?;
        words.resize_with(FILE_PAGES * FILE_WORDS, || AtomicU64::new(0));
        Some(Words(words))
    }

    fn page(&self, page: usize) -> &[AtomicU64] {
        let first = page % FILE_PAGES * FILE_WORDS;
        &self.0[first..first + FILE_WORDS]
    }
}

/// The file and an address space that shows it. Each CPU writes ascending numbers to its word of a page.
pub(crate) struct SharedFile<P: Machine> {
    pub space: AddressSpace<P>,
    object: MemoryObject<P>,
    requests: &'static PagerQueue<P>,
    start: VirtAddr,
    disk: Disk,
    /// What CPUs have written: what a word of the file must hold at least.
    written: Words,
}

impl<P: Machine> SharedFile<P> {
    /// A file of zeros, whose pages are asked for by `requests`; `None` without memory.
    pub(crate) fn new(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        requests: &'static PagerQueue<P>,
    ) -> Option<SharedFile<P>> {
        let object = MemoryObject::paged(service, pin, BYTES, requests, 0).ok()?;
        let space = service.create_space(pin).ok()?;
        let mapping = ObjectMapping::new(&object, 0, Sharing::Shared);
        let start = space.mmap_object(pin, &MapRequest::anonymous(BYTES), mapping).ok()?;
        let disk = Disk(Words::zeros()?);
        Some(SharedFile { space, object, requests, start, disk, written: Words::zeros()? })
    }

    /// Where the word of `cpu` in `page` is.
    pub(crate) fn address(&self, page: usize, cpu: CpuId) -> VirtAddr {
        let offset = page % FILE_PAGES * 4096 + cpu.index() % FILE_WORDS * 8;
        VirtAddr::new_truncate(self.start.as_u64() + offset as u64)
    }

    /// What `cpu` has written to `page`.
    pub(crate) fn written(&self, page: usize, cpu: CpuId) -> u64 {
        // Acquire pairs with the Release in `note_written`: the write came before.
        self.written.page(page)[cpu.index() % FILE_WORDS].load(Ordering::Acquire)
    }

    /// Notes that `cpu` has written `value` to `page`.
    pub(crate) fn note_written(&self, page: usize, cpu: CpuId, value: u64) {
        self.written.page(page)[cpu.index() % FILE_WORDS].store(value, Ordering::Release);
    }

    /// What the word of `cpu` in `page` was when the page was written back last.
    pub(crate) fn written_back(&self, page: usize, cpu: CpuId) -> u64 {
        // Acquire as in `written`.
        self.disk.0.page(page)[cpu.index() % FILE_WORDS].load(Ordering::Acquire)
    }

    const fn bytes_of(page: usize) -> Range<u64> {
        let first = (page % FILE_PAGES) as u64 * 4096;
        first..first + 4096
    }

    /// Has `page` written back. The pager must be served meanwhile.
    pub(crate) async fn write_back(&self, page: usize) -> bool {
        self.object.sync(Self::bytes_of(page)).await.is_ok()
    }

    /// Has `page` leave memory, if it is clean.
    pub(crate) fn evict(&self, pin: &CpuPin, page: usize) {
        self.object.evict(pin, Self::bytes_of(page));
    }

    /// Serves the pager.
    pub(crate) async fn serve(&self, service: &'static MemoryService<P>) -> Result<Infallible, AllocError> {
        self.requests.serve(service, &self.disk).await
    }
}

/// The place of pages that are not in memory.
struct Disk(Words);

/// The number of the page at `offset` of the file.
const fn page_at(offset: u64) -> usize {
    (offset >> 12) as usize
}

impl Pager for Disk {
    async fn read_in(&self, _: u64, offset: u64, page: &mut [u8]) -> Result<(), PagerError> {
        for (bytes, word) in page.chunks_exact_mut(8).zip(self.0.page(page_at(offset))) {
            // Relaxed: requests for one page follow each other.
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        Ok(())
    }

    async fn write_back(&self, _: u64, offset: u64, page: &[u8]) -> Result<(), PagerError> {
        for (bytes, word) in page.chunks_exact(8).zip(self.0.page(page_at(offset))) {
            let mut value = [0; 8];
            value.copy_from_slice(bytes);
            // Release pairs with the Acquire in `written_back`.
            word.store(u64::from_ne_bytes(value), Ordering::Release);
        }
        Ok(())
    }

    async fn discard(&self, _: u64, _: Range<u64>) -> Result<(), PagerError> {
        Ok(())
    }
}
