//! A file's pages: written to, written back, out of memory and in again. What was written to the file is there.

use alloc::sync::Arc;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use topomem::region::{FaultAccess, FaultError, PageFault};
use topomem::{CpuId, VirtAddr};

use super::TRIES;
use super::meetings::{MeetingKind, RegionMeeting};
use crate::oracle::Space;
use crate::shared::file::{FILE_PAGES, FILE_WORDS, SharedFile};
use crate::shared::rendezvous::Stage;
use crate::worker::Worker;
use crate::{Failure, Rig, Text};

impl<R: Rig> Worker<'_, R> {
    /// Makes the file of the run, if its scenario has one.
    pub(crate) fn make_file(&self) {
        let Some(requests) = self.run.requests else { return };
        let file = SharedFile::new(self.run.rig.service(), &self.pin, requests);
        *self.run.file.lock() = file.map(Arc::new);
    }

    /// Gives the file back; no CPU uses it any more.
    pub(crate) fn drop_file(&self) {
        let file = self.run.file.lock().take();
        drop(file);
    }

    /// Uses the file, if there is one, with its space active.
    fn in_file(&mut self, act: impl FnOnce(&mut Self, &SharedFile<R::Machine>)) {
        let Some(file) = self.run.file.lock().clone() else { return };
        let before = self.active;
        self.activate_other(&file.space);
        act(self, &file);
        self.activate(before);
    }

    /// One operation on the file.
    pub(super) fn use_file(&mut self) {
        self.in_file(|this, file| {
            let page = this.random.index(FILE_PAGES);
            match this.random.below(8) {
                0 => this.write_back(file, page),
                1 => file.evict(&this.pin, page),
                2 => this.check_file(file, page),
                _ => this.write_own_file_word(file, page),
            }
        });
    }

    /// Has a page written back that another CPU writes to, if one comes soon; then has it leave memory.
    pub(super) fn write_back_before_a_witness(&mut self) {
        self.in_file(|this, file| {
            let page = this.random.index(FILE_PAGES);
            let meeting = RegionMeeting { space: 0, page, to: page, kind: MeetingKind::File };
            this.before_a_witness(meeting, |this| {
                this.write_back(file, page);
                Some(Stage::HandedOver)
            });
            file.evict(&this.pin, page);
            this.check_file(file, page);
            this.count_changes(1);
        });
    }

    /// Writes to `page` before another CPU has it written back, and after.
    pub(super) fn witness_writing_back(&mut self, page: usize) {
        self.in_file(|this, file| {
            this.write_own_file_word(file, page);
            this.run.witnessed.enter(Stage::Ready);
            this.wait_for_witness(Stage::HandedOver);
            this.write_own_file_word(file, page);
            this.run.witnessed.enter(Stage::Done);
        });
    }

    fn write_own_file_word(&mut self, file: &SharedFile<R::Machine>, page: usize) {
        let cpu = self.cpu;
        if cpu.index() >= FILE_WORDS {
            return;
        }
        self.check_word(file, page, cpu);
        let (address, value) = (file.address(page, cpu), file.written(page, cpu) + 1);
        let store = || self.run.rig.store(address, value);
        if self.access_file(file, address, FaultAccess::Write, store).is_some() {
            file.note_written(page, cpu, value);
        }
    }

    /// The page holds what CPUs have written to it.
    fn check_file(&self, file: &SharedFile<R::Machine>, page: usize) {
        self.writers().for_each(|cpu| self.check_word(file, page, cpu));
        self.count_probes(1);
    }

    fn check_word(&self, file: &SharedFile<R::Machine>, page: usize, cpu: CpuId) {
        let (address, expected) = (file.address(page, cpu), file.written(page, cpu));
        let load = || self.run.rig.load(address);
        if let Some(found) = self.access_file(file, address, FaultAccess::Read, load)
            && found < expected
        {
            self.lost_in_file(address, expected, found);
        }
    }

    /// Has `page` written back: what was written to it before is with the pager then.
    fn write_back(&self, file: &SharedFile<R::Machine>, page: usize) {
        let mut before = [0; FILE_WORDS];
        before.iter_mut().zip(self.writers()).for_each(|(before, cpu)| *before = file.written(page, cpu));
        if !self.serve_until(file, file.write_back(page)) {
            return;
        }
        for (expected, cpu) in before.into_iter().zip(self.writers()) {
            let found = file.written_back(page, cpu);
            if found < expected {
                self.lost_in_file(file.address(page, cpu), expected, found);
            }
        }
    }

    fn writers(&self) -> impl Iterator<Item = CpuId> {
        (0..self.run.rig.cpus().min(FILE_WORDS)).filter_map(CpuId::new)
    }

    fn lost_in_file(&self, address: VirtAddr, expected: u64, found: u64) {
        let (cpu, space) = (self.cpu, Space::Private);
        self.run.fail(Failure::LostWrite { cpu, space, address, expected, found });
    }

    /// Accesses a word of `file`, whose space is active, as a program does; `None` without memory for it.
    fn access_file<T>(
        &self,
        file: &SharedFile<R::Machine>,
        address: VirtAddr,
        access: FaultAccess,
        attempt: impl Fn() -> Option<T>,
    ) -> Option<T> {
        for _ in 0..TRIES {
            if let Some(done) = attempt() {
                return Some(done);
            }
            match file.space.on_page_fault(&self.pin, PageFault::new(address, access)) {
                Ok(_) => {}
                Err(FaultError::OutOfFrames(_)) => return None,
                Err(FaultError::Waits(wait)) => {
                    if let Err(error) = self.serve_until(file, wait) {
                        self.refused("reading in a page of a file", Text::display(&error));
                        return None;
                    }
                }
                Err(error) => {
                    self.refused("an access of a file's page", Text::display(&error));
                    return None;
                }
            }
        }
        self.refused("an access of a file's page", Text::display(&"it faults again and again"));
        None
    }

    /// Waits for `awaited`, and serves the file's pager meanwhile.
    fn serve_until<T>(&self, file: &SharedFile<R::Machine>, awaited: impl Future<Output = T>) -> T {
        let service = self.run.rig.service();
        let (mut awaited, mut serving) = (pin!(awaited), pin!(file.serve(service)));
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(done) = awaited.as_mut().poll(&mut context) {
                return done;
            }
            if serving.as_mut().poll(&mut context).is_ready() {
                // There was no frame for it.
                serving.set(file.serve(service));
            }
            self.turn();
        }
    }
}
