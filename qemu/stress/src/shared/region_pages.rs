//! The pages of a space that all CPUs use by regions.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use topomem::VirtAddr;

use crate::oracle::{PageState, RegionPage};
use crate::rig::Window;

/// How many pages a space has, in groups of [`GROUP`].
pub(crate) const REGION_PAGES: usize = 64;

/// Pages one after the other, half of them before a 2 MiB boundary; the first group has one of 1 GiB.
pub(crate) const GROUP: usize = 16;

/// How far a group is from the next.
const DISTANCE: u64 = 128 << 20;

/// Where the first group's boundary is in the window: far from the slots, and before most CPUs' own pages.
const OFFSET: u64 = 1 << 30;

/// The pages of one space.
#[derive(Debug)]
pub(crate) struct RegionPages(Vec<RegionPage>);

/// Pages one after the other that the holder alone changes. What their states are is published when it is
/// dropped.
#[derive(Debug)]
pub(crate) struct LockedPages<'a> {
    pub pages: &'a [RegionPage],
    pub states: ArrayVec<PageState, GROUP>,
}

impl RegionPages {
    /// The pages of the space with the number `space` in `window`; `None` without memory.
    pub(crate) fn new(space: u8, window: Window) -> Option<RegionPages> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(REGION_PAGES).ok()?;
        for number in 0..REGION_PAGES {
            let (group, page) = (number / GROUP, number % GROUP);
            let boundary = window.base.as_u64() + OFFSET + group as u64 * DISTANCE;
            let address = boundary - (GROUP as u64 / 2) * 4096 + page as u64 * 4096;
            pages.push(RegionPage::new(space, number as u16, VirtAddr::new_truncate(address)));
        }
        Some(RegionPages(pages))
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[RegionPage] {
        &self.0
    }

    /// The number of one of its pages.
    pub(crate) fn number_of(&self, page: &RegionPage) -> usize {
        self.0.iter().position(|other| other.address == page.address).unwrap_or(0)
    }

    /// The page numbered `number`, less what is too much.
    pub(crate) fn page(&self, number: usize) -> &RegionPage {
        &self.0[number % REGION_PAGES]
    }

    /// Locks `count` pages from `first` on, or as many as the group has; `None` if another CPU has one.
    pub(crate) fn lock(&self, first: usize, count: usize) -> Option<LockedPages<'_>> {
        let end = (first + count).min((first / GROUP + 1) * GROUP);
        let mut locked = LockedPages { pages: &self.0[first..end], states: ArrayVec::new() };
        for page in locked.pages {
            // What is locked already is released by the drop.
            locked.states.push(page.try_lock()?);
        }
        Some(locked)
    }
}

impl LockedPages<'_> {
    /// Where they begin.
    pub(crate) fn start(&self) -> VirtAddr {
        self.pages[0].address
    }

    /// How many bytes they are.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages.len() as u64 * 4096
    }

    /// Is each so?
    pub(crate) fn all(&self, is: impl Fn(PageState) -> bool) -> bool {
        self.states.iter().all(|&state| is(state))
    }

    /// Gives each another state.
    pub(crate) fn become_each(&mut self, new: impl Fn(PageState) -> PageState) {
        self.states.iter_mut().for_each(|state| *state = new(*state));
    }
}

impl Drop for LockedPages<'_> {
    fn drop(&mut self) {
        for (page, state) in self.pages.iter().zip(&self.states) {
            page.publish(*state);
        }
    }
}
