//! The index of an object's pages: a tree of tables of 512 words, in frames.
//!
//! A page is found, changed and claimed through a single word of its own. CPUs using different
//! pages therefore share no lock and write no common line. Page faults look a page up with a
//! page-table entry claimed, where waiting is not allowed. A hash table would have to be locked, in
//! shards, and moved when growing. The tree's height follows the object's length: an object of 2
//! MiB has a single table. Tables stay until the object ends.

use core::ops::ControlFlow;

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order, PhysAddr, PhysFrame};

use super::word::PageWord;
use crate::Machine;
use crate::service::MemoryService;
use crate::service::memory::frame_memory;

const BITS: u32 = 9;
const ENTRIES: usize = 1 << BITS;

/// In a link: number of levels of tables from the link on. The rest is the address of a table.
const HEIGHT: u64 = 0xfff;

/// Greatest number of levels: 2^48 bytes.
const HIGHEST: u32 = 4;

/// Greatest number of pages of an object.
pub(in crate::object) const MOST_PAGES: u64 = 1 << (BITS * HIGHEST);

/// A word of a table: the word of a page in the lowest tables, otherwise a link to a table.
type Table = [AtomicU64; ENTRIES];

/// The tree.
pub(in crate::object) struct Index {
    /// The address of the highest table, and the number of levels; 0 without a table.
    root: AtomicU64,
}

/// A table, and the number of levels from the table on.
#[derive(Clone, Copy)]
struct Node<'a> {
    table: &'a Table,
    height: u32,
}

impl<'a> Node<'a> {
    /// Returns the number of pages covered by a word of the table.
    const fn pages_of_word(self) -> u64 {
        1 << (BITS * (self.height - 1))
    }

    const fn pages(self) -> u64 {
        1 << (BITS * self.height)
    }

    fn word(self, page: u64) -> &'a AtomicU64 {
        &self.table[(page / self.pages_of_word()) as usize % ENTRIES]
    }
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { root: AtomicU64::new(0) }
    }

    /// Returns the table under `link`, if any.
    fn follow<P: Machine>(&self, service: &MemoryService<P>, link: u64) -> Option<Node<'_>> {
        if link == 0 {
            return None;
        }
        let address = service.platform().phys_to_virt(PhysAddr::new(link & !HEIGHT));
        // SAFETY: the frame was zeroed, and belongs to the tree as long as `self` lives; its words
        // are only accessed as atomics.
        Some(Node { table: unsafe { address.cast().as_ref() }, height: (link & HEIGHT) as u32 })
    }

    fn root<P: Machine>(&self, service: &MemoryService<P>) -> Option<Node<'_>> {
        // Acquire pairs with the Release in `link`: a reader of the link sees the table zeroed.
        self.follow(service, self.root.load(Ordering::Acquire))
    }

    fn page_word(word: &AtomicU64) -> &PageWord {
        // SAFETY: `PageWord` is transparent over the word.
        unsafe { &*core::ptr::from_ref(word).cast() }
    }

    /// Returns the word of `page`, or `None` without a table for it: the page is then absent.
    pub(crate) fn get<P: Machine>(&self, service: &MemoryService<P>, page: u64) -> Option<&PageWord> {
        let mut node = self.root(service).filter(|root| page < root.pages())?;
        while node.height > 1 {
            // Acquire, as in `root`.
            node = self.follow(service, node.word(page).load(Ordering::Acquire))?;
        }
        Some(Index::page_word(node.word(page)))
    }

    /// Replaces `current` in `place` by a new table with `first` as its first word, or does nothing
    /// if another context was faster.
    fn link<P: Machine>(
        service: &MemoryService<P>,
        pin: &CpuPin,
        place: &AtomicU64,
        current: u64,
        height: u32,
    ) -> Result<(), AllocError> {
        let frame = service.alloc(pin, &FrameRequest::frame().zeroed())?;
        let address = service.platform().phys_to_virt(frame.start_address()).cast::<Table>();
        // SAFETY: the caller owns the frame, which is zeroed.
        let table = unsafe { address.as_ref() };
        table[0].store(current, Ordering::Relaxed);
        let link = frame.start_address().as_u64() | u64::from(height);
        // Release pairs with the Acquire in `root`.
        if place.compare_exchange(current, link, Ordering::Release, Ordering::Relaxed).is_err() {
            // SAFETY: no context has seen the frame.
            unsafe { frame_memory::release_own(service.frames(), pin, frame, Order::FRAME) };
        }
        Ok(())
    }

    /// Returns the word of `page`, below [`MOST_PAGES`], and makes its missing tables.
    pub(crate) fn make<P: Machine>(
        &self,
        service: &MemoryService<P>,
        pin: &CpuPin,
        page: u64,
    ) -> Result<&PageWord, AllocError> {
        'again: loop {
            // Acquire, as in `root`.
            let current = self.root.load(Ordering::Acquire);
            let mut node = match self.follow(service, current) {
                Some(root) if page < root.pages() => root,
                higher => {
                    let height = higher.map_or(1, |root| root.height + 1);
                    Index::link(service, pin, &self.root, current, height)?;
                    continue;
                }
            };
            while node.height > 1 {
                let word = node.word(page);
                match self.follow(service, word.load(Ordering::Acquire)) {
                    Some(below) => node = below,
                    None => {
                        Index::link(service, pin, word, 0, node.height - 1)?;
                        continue 'again;
                    }
                }
            }
            return Ok(Index::page_word(node.word(page)));
        }
    }

    /// Calls `visit` with each word of the pages from `first` to `last` in existing tables, in
    /// ascending order, until `visit` breaks.
    pub(crate) fn for_each<P: Machine>(
        &self,
        service: &MemoryService<P>,
        first: u64,
        last: u64,
        visit: &mut impl FnMut(u64, &PageWord) -> ControlFlow<()>,
    ) {
        if let Some(root) = self.root(service) {
            let _ = self.below(service, root, 0, first, last, visit);
        }
    }

    fn below<P: Machine>(
        &self,
        service: &MemoryService<P>,
        node: Node<'_>,
        start: u64,
        first: u64,
        last: u64,
        visit: &mut impl FnMut(u64, &PageWord) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let span = node.pages_of_word();
        for (index, word) in node.table.iter().enumerate() {
            let page = start + index as u64 * span;
            if page + span <= first {
                continue;
            }
            if page > last {
                break;
            }
            if node.height == 1 {
                visit(page, Index::page_word(word))?;
            } else if let Some(below) = self.follow(service, word.load(Ordering::Acquire)) {
                self.below(service, below, page, first, last, visit)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Frees the tables. All pages are absent.
    ///
    /// # Safety
    ///
    /// Nothing uses the object any more.
    pub(crate) unsafe fn free<P: Machine>(&self, service: &MemoryService<P>, pin: &CpuPin) {
        // Acquire, as in `root`.
        let link = self.root.swap(0, Ordering::Acquire);
        // SAFETY: the caller's promise.
        unsafe { self.free_below(service, pin, link) };
    }

    /// Frees the tables from `link` on.
    ///
    /// # Safety
    ///
    /// As for [`Index::free`].
    unsafe fn free_below<P: Machine>(&self, service: &MemoryService<P>, pin: &CpuPin, link: u64) {
        let Some(node) = self.follow(service, link) else { return };
        if node.height > 1 {
            for word in node.table {
                // SAFETY: the caller's promise.
                unsafe { self.free_below(service, pin, word.load(Ordering::Acquire)) };
            }
        }
        let frame = PhysFrame::containing_address(PhysAddr::new(link & !HEIGHT));
        // SAFETY: `link` allocated the frame, and the caller's promise.
        unsafe { frame_memory::release_own(service.frames(), pin, frame, Order::FRAME) };
    }
}
