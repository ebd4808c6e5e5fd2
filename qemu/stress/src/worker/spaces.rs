//! CPUs switch address spaces, and make short-lived ones of their own.

use core::sync::atomic::Ordering;

use topomem::{FrameRequest, Order, PageRange, PageSize, Protection, VirtAddr, WakersDue};

use super::{KERNEL, Worker};
use crate::Text;
use crate::oracle::Space;
use crate::{Failure, Rig};

/// Where a private space's pages are; the shared spaces have theirs elsewhere.
const PRIVATE: u64 = 0x40_0000_0000;
const PRIVATE_PAGES: u64 = 5;

impl<R: Rig> Worker<'_, R> {
    pub(super) async fn switch_step(&mut self) {
        if self.random.one_in(8) {
            self.private_space().await;
        } else {
            let space = self.random.index(self.run.spaces.len());
            let looks = self.random.one_in(2);
            if looks {
                // What changes while the CPU is away must be in the TLB before, and not after.
                self.look_around(self.active);
            }
            self.activate(space);
            if looks {
                self.look_around(KERNEL);
                self.look_around(space);
            }
        }
    }

    /// Makes the run's space number `index` the active one.
    pub(super) fn activate(&mut self, index: usize) {
        if self.active != index {
            // SAFETY: the CPU is online, nobody else on it switches, and this is no handler.
            let due = unsafe { self.run.spaces[index].space().activate(&self.pin) };
            self.active = index;
            if due == WakersDue::Perhaps {
                self.run.rig.service().wake_due(&self.pin);
            }
        }
    }

    /// A space that only this CPU uses: it must see what it wrote, and nothing of others.
    async fn private_space(&mut self) {
        let run = self.run;
        let service = run.rig.service();
        let Ok(space) = service.create_space(&self.pin) else { return };
        let start = VirtAddr::new_truncate(PRIVATE);
        let Ok(range) = PageRange::new(start, PRIVATE_PAGES, PageSize::Size4KiB) else { return };
        let request = FrameRequest::frame().zeroed();
        if space.map(&self.pin, range, request, Protection::USER_DATA).is_err() {
            return;
        }
        // SAFETY: as in `activate`; the space outlives its activity here.
        unsafe { space.activate(&self.pin) };
        for page in range.iter() {
            self.write_and_read(Space::Private, page);
        }
        let unmapping = match space.unmap(&self.pin, range) {
            Ok(unmapping) => unmapping,
            Err(error) => return self.refused("unmapping a private space", Text::display(&error)),
        };
        unmapping.await;
        if let Some(found) = run.rig.load(start) {
            let (cpu, space) = (self.cpu, Space::Private);
            run.fail(Failure::StillMapped { cpu, space, address: start, found });
        }
        let again = self.active;
        self.active = usize::MAX;
        self.activate(again);
        run.counters(self.cpu).probes.fetch_add(PRIVATE_PAGES, Ordering::Relaxed);
    }

    /// A page of the kernel's under tables of its own, seen from two spaces. The tables are freed in
    /// the second, and others take their place: from the first, it must walk through those.
    pub(super) async fn kernel_tables(&mut self) {
        let run = self.run;
        let kernel = &run.spaces[KERNEL];
        let Some(range) = kernel.private_range(self.cpu) else { return };
        let (first, second) = (self.active, (self.active + 1) % run.spaces.len());
        if !self.map_kernel_page(range.start()) {
            return;
        }
        self.write_and_read(Space::Kernel, range.start());
        self.activate(second);
        self.unmap_kernel(range).await;
        // Or it could be the next table, and nothing would show.
        let spare = run.rig.service().alloc(&self.pin, &FrameRequest::frame()).ok();
        let spare = spare.and_then(|frame| self.take_in(frame, Order::FRAME));
        let mapped = self.map_kernel_page(range.start());
        self.activate(first);
        if mapped {
            self.write_and_read(Space::Kernel, range.start());
            self.unmap_kernel(range).await;
        }
        if let Some(held) = spare {
            self.free_unchecked(held);
        }
        run.counters(self.cpu).probes.fetch_add(2, Ordering::Relaxed);
    }

    /// False where memory is short, or a CPU that shares the page was faster.
    fn map_kernel_page(&self, page: VirtAddr) -> bool {
        let kernel = &self.run.spaces[KERNEL];
        let request = FrameRequest::frame().zeroed();
        let page = PageRange::page(page, PageSize::Size4KiB);
        kernel.space().map(&self.pin, page, request, kernel.writable()).is_ok()
    }

    async fn unmap_kernel(&self, range: PageRange) {
        match self.run.spaces[KERNEL].space().unmap(&self.pin, range) {
            Ok(unmapping) => unmapping.await,
            Err(error) => self.refused("unmapping tables", Text::display(&error)),
        }
    }

    fn write_and_read(&self, space: Space, page: VirtAddr) {
        let rig = &self.run.rig;
        let expected = page.as_u64() ^ self.cpu.index() as u64;
        let found = rig.store(page, expected).and_then(|()| rig.load(page));
        let (cpu, address) = (self.cpu, page);
        match found {
            Some(found) if found == expected => {}
            Some(found) => {
                self.run.fail(Failure::StaleTranslation { cpu, space, address, expected, found });
            }
            None => self.run.fail(Failure::MissingMapping { cpu, space, address }),
        }
    }
}
