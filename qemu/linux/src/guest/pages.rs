//! Pages that are mapped, touched and taken away again, over and over at the same place.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};

use super::system::file::File;
use crate::guest::error::GuestError;

/// Bytes in a page: of the smallest size, as the guest's kernel is told to use no other.
pub(crate) const PAGE: usize = 4096;

/// Pages that one page table maps.
const TABLE: usize = 512;

/// Pages before the first one: a neighbour, and one that stays reserved.
const BEFORE: usize = 2;

/// How the pages lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Side by side, in one mapping.
    Together,
    /// Each a mapping of its own, with a page between them that nothing is mapped to: unmapping one splits no mapping.
    Apart,
    /// Every second page of one mapping: unmapping one splits it.
    Holes,
}

impl Layout {
    /// Pages from one to the next.
    fn stride(self) -> usize {
        match self {
            Self::Together => 1,
            Self::Apart | Self::Holes => 2,
        }
    }

    /// Pages that `count` of them take up, with what is between and around them.
    fn extent(self, count: usize) -> usize {
        match self {
            Self::Together => count,
            Self::Apart | Self::Holes => 2 * count + 1,
        }
    }
}

/// Some pages, at addresses that nothing else of this process comes to.
///
/// Neighbouring addresses stay reserved, so the kernel keeps the page table that covers the pages, as it does for a
/// few pages in the middle of a busy address space. The first page always is the third that its page table maps, so
/// that pages of one table are so in every run.
#[derive(Debug)]
pub(crate) struct Pages {
    /// What is reserved with them, from the first byte on.
    all: NonNull<[u8]>,
    reserved: NonNull<u8>,
    count: usize,
    layout: Layout,
}

/// Where helpers read: one byte in each page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) first: *mut u8,
    /// Bytes from one to the next.
    pub(crate) step: usize,
    pub(crate) count: usize,
}

impl Pages {
    /// Reserves the addresses of `count` pages; they can't be touched before [`map`](Self::map). Another page of
    /// the first page's table is in use.
    pub(crate) fn reserve(count: usize, layout: Layout) -> Result<Self, GuestError> {
        let pages = Self::reserve_alone(count, layout)?;
        let neighbour = pages.reserved.as_ptr().wrapping_sub(BEFORE * PAGE);
        // SAFETY: inside what was reserved, and not one of the pages.
        unsafe {
            mmap_anonymous(neighbour.cast(), PAGE, DATA, private() | MapFlags::FIXED)
                .map_err(mapping("mmap"))?;
            neighbour.write_volatile(1);
        }
        Ok(pages)
    }

    /// As [`reserve`](Self::reserve), but no other page of their tables is in use.
    pub(crate) fn reserve_alone(count: usize, layout: Layout) -> Result<Self, GuestError> {
        // The rest of the tables stays reserved.
        let tables = (BEFORE + layout.extent(count) + 1).div_ceil(TABLE) + 1;
        let length = tables * TABLE * PAGE;
        // SAFETY: a new mapping, wherever the kernel has room.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), private()) }
            .map_err(mapping("mmap"))?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(mapping("mmap")(Errno::NOMEM))?;
        // SAFETY: inside the mapping, which has a table's pages more than these take up.
        let reserved = unsafe { start.add(start.align_offset(TABLE * PAGE) + BEFORE * PAGE) };
        Ok(Self { all: NonNull::slice_from_raw_parts(start, length), reserved, count, layout })
    }

    /// Maps the pages and writes to each, so that each has a frame.
    pub(crate) fn map(&self) -> Result<(), GuestError> {
        self.map_untouched()?;
        self.each(Self::write);
        Ok(())
    }

    /// Maps the pages, which have no frames yet.
    pub(crate) fn map_untouched(&self) -> Result<(), GuestError> {
        match self.layout {
            Layout::Together => self.replace(0, self.count, DATA, private()),
            Layout::Apart => {
                (0..self.count).try_for_each(|index| self.replace(2 * index + 1, 1, DATA, private()))
            }
            Layout::Holes => self.replace(0, self.layout.extent(self.count), DATA, private()),
        }
    }

    /// Maps all that lies from the first page to the last, with frames (`MAP_POPULATE`).
    pub(crate) fn populate(&self) -> Result<(), GuestError> {
        self.replace(0, self.layout.extent(self.count), DATA, private() | MapFlags::POPULATE)
    }

    /// Maps the first pages of a file in the place of the pages.
    pub(crate) fn show(&self, file: &File, sharing: MapFlags) -> Result<(), GuestError> {
        let length = self.layout.extent(self.count) * PAGE;
        // SAFETY: these addresses were reserved for `self`, and stay mapped until this call.
        let mapped = unsafe { mmap(self.at(0).cast(), length, DATA, sharing | MapFlags::FIXED, file, 0) };
        mapped.map(|_| ()).map_err(mapping("mmap"))
    }

    /// Writes to one page, which must be mapped for writing.
    pub(crate) fn write(&self, index: usize) {
        // SAFETY: the caller has mapped it; its bytes are in no other use while it is written to.
        unsafe { self.page(index).write_volatile(1) };
    }

    /// Does `work` with one page after the other.
    pub(crate) fn each(&self, work: impl Fn(&Self, usize)) {
        (0..self.count).for_each(|index| work(self, index));
    }

    /// Reads one page, which must be mapped.
    pub(crate) fn read(&self, index: usize) {
        // SAFETY: the caller has mapped it.
        unsafe { self.page(index).read_volatile() };
    }

    /// Takes everything away and reserves the addresses again.
    pub(crate) fn clear(&self) -> Result<(), GuestError> {
        self.replace(0, self.layout.extent(self.count), ProtFlags::empty(), private())
    }

    /// Makes one page read-only.
    pub(crate) fn protect(&self, index: usize) -> Result<(), GuestError> {
        self.permit(index, PAGE, MprotectFlags::READ)
    }

    /// Makes one page writable again.
    pub(crate) fn unprotect(&self, index: usize) -> Result<(), GuestError> {
        self.permit(index, PAGE, MprotectFlags::READ | MprotectFlags::WRITE)
    }

    /// Makes all pages read-only, with what lies between.
    pub(crate) fn protect_all(&self) -> Result<(), GuestError> {
        self.permit(0, self.length(), MprotectFlags::READ)
    }

    /// Makes all pages writable again.
    pub(crate) fn unprotect_all(&self) -> Result<(), GuestError> {
        self.permit(0, self.length(), MprotectFlags::READ | MprotectFlags::WRITE)
    }

    fn permit(&self, index: usize, length: usize, access: MprotectFlags) -> Result<(), GuestError> {
        // SAFETY: the pages are ours, and nobody writes to them while they are read-only.
        unsafe { mprotect(self.page(index).cast(), length, access) }.map_err(mapping("mprotect"))
    }

    /// Takes one page's frame away (`MADV_DONTNEED`); it stays mapped.
    pub(crate) fn discard(&self, index: usize) -> Result<(), GuestError> {
        self.give_up(index, PAGE)
    }

    /// Takes the frames of all pages away.
    pub(crate) fn discard_all(&self) -> Result<(), GuestError> {
        self.give_up(0, self.length())
    }

    fn give_up(&self, index: usize, length: usize) -> Result<(), GuestError> {
        // SAFETY: the pages are ours, and nobody needs what is in them.
        unsafe { madvise(self.page(index).cast(), length, Advice::LinuxDontNeed) }.map_err(mapping("madvise"))
    }

    /// Unmaps one page.
    pub(crate) fn unmap(&self, index: usize) -> Result<(), GuestError> {
        // SAFETY: the page is ours, and helpers read it only while the caller waits for them.
        unsafe { munmap(self.page(index).cast(), PAGE) }.map_err(mapping("munmap"))
    }

    /// Unmaps one page after the other.
    pub(crate) fn unmap_each(&self) -> Result<(), GuestError> {
        (0..self.count).try_for_each(|index| self.unmap(index))
    }

    /// Unmaps all that lies from the first page to the last at once.
    pub(crate) fn unmap_all(&self) -> Result<(), GuestError> {
        // SAFETY: as for one page.
        unsafe { munmap(self.page(0).cast(), self.length()) }.map_err(mapping("munmap"))
    }

    /// Bytes from the first page to the end of the last.
    fn length(&self) -> usize {
        ((self.count - 1) * self.layout.stride() + 1) * PAGE
    }

    /// Where to read each page.
    pub(crate) fn places(&self) -> Places {
        Places { first: self.page(0), step: self.layout.stride() * PAGE, count: self.count }
    }

    /// The first byte of the page numbered `index`.
    fn page(&self, index: usize) -> *mut u8 {
        debug_assert!(index < self.count);
        let before = match self.layout {
            Layout::Together => index,
            Layout::Apart | Layout::Holes => 2 * index + 1,
        };
        self.at(before)
    }

    /// The address `pages` pages behind the reserved start.
    fn at(&self, pages: usize) -> *mut u8 {
        self.reserved.as_ptr().wrapping_add(pages * PAGE)
    }

    /// Puts a new mapping in the place of whatever is there.
    fn replace(
        &self,
        first: usize,
        count: usize,
        access: ProtFlags,
        flags: MapFlags,
    ) -> Result<(), GuestError> {
        // SAFETY: these addresses were reserved for `self`. Between an unmapping and this call nothing else can have
        // come to them: the main thread, which does both, makes no other mapping and allocates nothing, and
        // helpers only read and wait.
        let mapped = unsafe {
            let at = self.at(first).cast::<c_void>();
            mmap_anonymous(at, count * PAGE, access, flags | MapFlags::FIXED)
        };
        mapped.map(|_| ()).map_err(mapping("mmap"))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nobody has the addresses any more.
        let unmapped = unsafe { munmap(self.all.as_ptr().cast(), self.all.len()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// Maps a page wherever the kernel likes, writes to it and unmaps it.
pub(crate) fn use_one() -> Result<(), GuestError> {
    // SAFETY: a new mapping, of which only this function knows.
    unsafe {
        let page = mmap_anonymous(ptr::null_mut(), PAGE, DATA, private()).map_err(mapping("mmap"))?;
        page.cast::<u8>().write_volatile(1);
        munmap(page, PAGE).map_err(mapping("munmap"))
    }
}

const DATA: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

fn private() -> MapFlags {
    MapFlags::PRIVATE
}

pub(crate) fn mapping(call: &'static str) -> impl Fn(Errno) -> GuestError {
    move |error| GuestError::Call { call, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The protection of the page at `address`, or `None` when nothing is mapped there.
    fn protection(address: *mut u8) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(start)..number(end)).contains(&address.addr()).then(|| rest[..4].to_owned())
        })
    }

    fn of(pages: &Pages) -> Vec<Option<String>> {
        let places = pages.places();
        (0..places.count).map(|index| protection(places.first.wrapping_add(index * places.step))).collect()
    }

    #[test]
    fn pages_come_and_go() {
        for layout in [Layout::Together, Layout::Apart, Layout::Holes] {
            let pages = Pages::reserve(3, layout).unwrap();
            let all = |access: &str| vec![Some(access.to_owned()); 3];
            assert_eq!(of(&pages), all("---p"), "{layout:?}");
            pages.map().unwrap();
            assert_eq!(of(&pages), all("rw-p"), "{layout:?}");
            pages.protect(1).unwrap();
            assert_eq!(of(&pages)[1].as_deref(), Some("r--p"), "{layout:?}");
            pages.clear().unwrap();
            assert_eq!(of(&pages), all("---p"), "{layout:?}");
        }
    }

    #[test]
    fn only_what_lies_in_one_mapping_is_split() {
        let between = |layout| {
            let pages = Pages::reserve(2, layout).unwrap();
            pages.map().unwrap();
            protection(pages.places().first.wrapping_add(PAGE))
        };
        assert_eq!(between(Layout::Holes).as_deref(), Some("rw-p"));
        assert_eq!(between(Layout::Apart).as_deref(), Some("---p"));
    }
}
