//! CPUs switch address spaces, and make short-lived ones of their own.

use core::sync::atomic::Ordering;

use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};

use super::Worker;
use crate::Text;
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
            self.activate(space);
        }
    }

    /// Makes the run's space number `index` the active one.
    pub(super) fn activate(&mut self, index: usize) {
        if self.active != index {
            // SAFETY: the CPU is online, nobody else on it switches, and this is no handler.
            unsafe { self.run.spaces[index].space().activate(&self.pin) };
            self.active = index;
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
            self.write_and_read(page);
        }
        let unmapping = match space.unmap(&self.pin, range) {
            Ok(unmapping) => unmapping,
            Err(error) => return self.refused("unmapping a private space", Text::display(&error)),
        };
        unmapping.await;
        if let Some(found) = run.rig.load(start) {
            let (cpu, space) = (self.cpu, crate::oracle::Space::Private);
            run.fail(Failure::StillMapped { cpu, space, address: start, found });
        }
        let again = self.active;
        self.active = usize::MAX;
        self.activate(again);
        run.counters(self.cpu).probes.fetch_add(PRIVATE_PAGES, Ordering::Relaxed);
    }

    fn write_and_read(&self, page: VirtAddr) {
        let rig = &self.run.rig;
        let expected = page.as_u64() ^ self.cpu.index() as u64;
        let found = rig.store(page, expected).and_then(|()| rig.load(page));
        let (cpu, space, address) = (self.cpu, crate::oracle::Space::Private, page);
        match found {
            Some(found) if found == expected => {}
            Some(found) => {
                self.run.fail(Failure::StaleTranslation { cpu, space, address, expected, found });
            }
            None => self.run.fail(Failure::MissingMapping { cpu, space, address }),
        }
    }
}
