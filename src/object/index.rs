//! Which pages of an object are where: a tree of tables of 512 words, in frames.
//!
//! A page is found, changed and claimed by one word of its own, so CPUs that use different pages share no
//! lock and write no common line; faults look a page up with a page-table entry claimed, where nothing may
//! be waited for. A hash table would have to be locked, in shards, and to be moved when it grows. The tree
//! is as high as the object's pages need: an object of 2 MiB has one table. Tables stay until the object
//! ends.

use core::ops::ControlFlow;

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::word::PageWord;
use crate::Machine;
use crate::service::{MemoryService, frame_memory};

const BITS: u32 = 9;
const ENTRIES: usize = 1 << BITS;

/// In a link: how many levels of tables there are from there on. The rest is the address of a table.
const HEIGHT: u64 = 0xfff;

/// How many levels there are at most: 2^48 bytes.
const HIGHEST: u32 = 4;

/// How many pages an object has at most.
pub(super) const MOST_PAGES: u64 = 1 << (BITS * HIGHEST);

/// A word of a table: the word of a page in the lowest tables, else a link to a table.
type Table = [AtomicU64; ENTRIES];

/// The tree.
pub(super) struct Index {
    /// The address of the highest table, and how many levels there are; 0 while there is none.
    root: AtomicU64,
}

/// A table and how many levels there are from it on.
#[derive(Clone, Copy)]
struct Node<'a> {
    table: &'a Table,
    height: u32,
}

impl<'a> Node<'a> {
    /// How many pages one word of the table stands for.
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
    pub fn new() -> Index {
        Index { root: AtomicU64::new(0) }
    }

    /// The table that `link` leads to, if any.
    fn follow<P: Machine>(&self, service: &MemoryService<P>, link: u64) -> Option<Node<'_>> {
        if link == 0 {
            return None;
        }
        let address = service.platform().phys_to_virt(PhysAddr::new_truncate(link & !HEIGHT));
        // SAFETY: the frame was zeroed, is the tree's, and stays so as long as `self`; its words are only
        // accessed as atomics.
        Some(Node { table: unsafe { address.cast().as_ref() }, height: (link & HEIGHT) as u32 })
    }

    fn root<P: Machine>(&self, service: &MemoryService<P>) -> Option<Node<'_>> {
        // Acquire pairs with the Release in `link`: who sees a table sees it zeroed.
        self.follow(service, self.root.load(Ordering::Acquire))
    }

    fn page_word(word: &AtomicU64) -> &PageWord {
        // SAFETY: `PageWord` is transparent over the word.
        unsafe { &*core::ptr::from_ref(word).cast() }
    }

    /// Returns the word of `page`; `None` if there is no table for it: then the page is absent.
    pub fn get<P: Machine>(&self, service: &MemoryService<P>, page: u64) -> Option<&PageWord> {
        let mut node = self.root(service).filter(|root| page < root.pages())?;
        while node.height > 1 {
            // Acquire as in `root`.
            node = self.follow(service, node.word(page).load(Ordering::Acquire))?;
        }
        Some(Index::page_word(node.word(page)))
    }

    /// Puts a new table, with `first` as its first word, in the place of `current` in `place`; or does
    /// nothing if another context has been faster.
    fn link<P: Machine>(
        service: &MemoryService<P>,
        pin: &CpuPin,
        place: &AtomicU64,
        current: u64,
        height: u32,
    ) -> Result<(), AllocError> {
        let frame = service.alloc(pin, &FrameRequest::frame().zeroed())?;
        let address = service.platform().phys_to_virt(frame.start_address()).cast::<Table>();
        // SAFETY: the frame is ours alone, and zeroed.
        let table = unsafe { address.as_ref() };
        table[0].store(current, Ordering::Relaxed);
        let link = frame.start_address().as_u64() | u64::from(height);
        // Release pairs with the Acquire in `root`.
        if place.compare_exchange(current, link, Ordering::Release, Ordering::Relaxed).is_err() {
            // SAFETY: nobody has seen it.
            unsafe { frame_memory::release_own(service.frames(), pin, frame, Order::FRAME) };
        }
        Ok(())
    }

    /// Returns the word of `page`, below [`MOST_PAGES`], with the tables that it needs.
    pub fn make<P: Machine>(
        &self,
        service: &MemoryService<P>,
        pin: &CpuPin,
        page: u64,
    ) -> Result<&PageWord, AllocError> {
        'again: loop {
            // Acquire as in `root`.
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

    /// Calls `visit` with each word of the pages from `first` to `last` that a table has, in ascending
    /// order, until it breaks.
    pub fn for_each<P: Machine>(
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
    /// Nobody uses the object any more.
    pub unsafe fn free<P: Machine>(&self, service: &MemoryService<P>, pin: &CpuPin) {
        // Acquire as in `root`.
        let link = self.root.swap(0, Ordering::Acquire);
        // SAFETY: the caller's promise.
        unsafe { self.free_below(service, pin, link) };
    }

    /// # Safety
    ///
    /// As [`Index::free`].
    unsafe fn free_below<P: Machine>(&self, service: &MemoryService<P>, pin: &CpuPin, link: u64) {
        let Some(node) = self.follow(service, link) else { return };
        if node.height > 1 {
            for word in node.table {
                // SAFETY: the caller's promise.
                unsafe { self.free_below(service, pin, word.load(Ordering::Acquire)) };
            }
        }
        let frame = PhysFrame::containing_address(PhysAddr::new_truncate(link & !HEIGHT));
        // SAFETY: `link` allocated it, and the caller's promise.
        unsafe { frame_memory::release_own(service.frames(), pin, frame, Order::FRAME) };
    }
}
