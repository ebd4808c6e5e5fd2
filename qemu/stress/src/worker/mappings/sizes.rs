//! Large pages of this CPU's own, cut and promoted while the others read them.

use core::sync::atomic::Ordering;

use topomem::{FrameRequest, Order, PageRange, PageSize, VirtAddr};

use crate::Text;
use crate::shared::shared_space::SharedSpace;
use crate::worker::{KERNEL, Worker};
use crate::{Failure, Rig};

/// Pages of a large one that carry tags, evenly spread.
const TAGGED: u64 = 8;
const STRIDE: u64 = PageSize::Size2MiB.bytes() / TAGGED;
/// Above the tag's serial number, which is above the page's number.
const MARK: u64 = 0x516e << 48;
const SERIAL: u32 = 8;

/// What a tagged page of the large page numbered `serial` holds.
const fn tag(serial: u64, page: u64) -> u64 {
    MARK | serial << SERIAL | page
}

/// The serial number in a tag of `page`.
const fn serial_of(found: u64, page: u64) -> Option<u64> {
    let is_tag = found >> 48 == MARK >> 48 && found & ((1 << SERIAL) - 1) == page;
    if is_tag { Some((found & !MARK) >> SERIAL) } else { None }
}

fn tagged_page(range: PageRange, page: u64) -> VirtAddr {
    VirtAddr::new_truncate(range.start().as_u64() + page * STRIDE)
}

impl<R: Rig> Worker<'_, R> {
    /// Maps a large page, cuts it, makes one of it again, and unmaps it; or looks into another
    /// CPU's.
    pub(in crate::worker) async fn sizes_step(&mut self) {
        let run = self.run;
        let index = if self.random.one_in(2) { KERNEL } else { self.active };
        if self.random.one_in(4) {
            let serial = run.large_pages(self.cpu, index).load(Ordering::Relaxed);
            if self.resize(&run.spaces[index], index, serial).await.is_none() {
                return;
            }
            // Release pairs with the Acquire below: who sees it sees that every CPU has forgotten
            // the page.
            run.large_pages(self.cpu, index).store(serial + 1, Ordering::Release);
        } else {
            for _ in 0..32 {
                let cpu = self.random.index(run.rig.cpus());
                let page = self.random.below(TAGGED);
                self.read_large(index, cpu, page);
            }
        }
    }

    /// `None` where there is no memory, or something went wrong.
    async fn resize(&mut self, space: &SharedSpace<R::Machine>, index: usize, serial: u64) -> Option<()> {
        let range = PageRange::page(space.private_range(self.cpu)?.start(), PageSize::Size2MiB);
        let service = self.run.rig.service();
        let first = service.alloc(&self.pin, &FrameRequest::order(Order::HUGE)).ok()?;
        for page in 0..TAGGED {
            self.word(first + page * (STRIDE / 4096), 0).store(tag(serial, page), Ordering::Release);
        }
        let space = space.space();
        let writable = self.run.spaces[index].writable();
        let read_only = self.run.spaces[index].read_only();
        // SAFETY: the run was just allocated as one, and is given up if this succeeds.
        let mapped =
            unsafe { space.map_owned(&self.pin, range.start(), PageSize::Size2MiB, first, writable) };
        if let Err(error) = mapped {
            // SAFETY: nothing has it.
            let freed = unsafe { service.frames().free(&self.pin, first, Order::HUGE) };
            self.refused("mapping a large page", Text::debug(&(error, freed)));
            return None;
        }
        self.check_large(index, serial);
        let cut =
            PageRange::new(tagged_page(range, self.random.below(TAGGED)), 3, PageSize::Size4KiB).ok()?;
        for protection in [read_only, writable] {
            match space.protect(&self.pin, cut, protection) {
                Ok(protected) => protected.await,
                Err(error) => {
                    self.refused("cutting a large page", Text::display(&error));
                    return None;
                }
            }
            self.check_large(index, serial);
        }
        match space.promote(&self.pin, range) {
            Ok(promoted) => {
                self.check_large(index, serial);
                promoted.await;
            }
            Err(error) => {
                self.refused("promoting small pages", Text::display(&error));
                return None;
            }
        }
        self.check_large(index, serial);
        match space.unmap(&self.pin, range) {
            Ok(unmapping) => unmapping.await,
            Err(error) => {
                self.refused("unmapping a large page", Text::display(&error));
                return None;
            }
        }
        Some(())
    }

    /// This CPU's own large page must be there, and hold what was written.
    fn check_large(&self, index: usize, serial: u64) {
        let space = &self.run.spaces[index];
        let Some(range) = space.private_range(self.cpu) else { return };
        for page in 0..TAGGED {
            let address = tagged_page(range, page);
            let found = self.run.rig.load(address);
            if found != Some(tag(serial, page)) {
                let (cpu, space, expected) = (self.cpu, space.name, tag(serial, page));
                let found = found.unwrap_or(0);
                self.run.fail(Failure::StaleTranslation { cpu, space, address, expected, found });
            }
        }
    }

    /// Another CPU's large page holds its tags, none that was unmapped before, or is not there.
    fn read_large(&self, index: usize, of: usize, page: u64) {
        let space = &self.run.spaces[index];
        let Some(of) = topomem::CpuId::new(of) else { return };
        let Some(range) = space.private_range(of) else { return };
        let least = self.run.large_pages(of, index).load(Ordering::Acquire);
        let address = tagged_page(range, page);
        let Some(found) = self.run.rig.load(address) else { return };
        if serial_of(found, page).is_none_or(|serial| serial < least) {
            let (cpu, space, expected) = (self.cpu, space.name, tag(least, page));
            self.run.fail(Failure::StaleTranslation { cpu, space, address, expected, found });
        }
    }
}
