//! One CPU answers no shootdown for a while.
//!
//! The boot CPU unmaps a page that the last CPU has a translation to, and awaits it. The last CPU
//! is unresponsive until it has been reported and the others have finished a good number of operations
//! meanwhile. It then reads the page once more through its old translation: the frame must still
//! be the page's, whatever the others were handed since.

use alloc::vec::Vec;
use core::future::{Future, IntoFuture, poll_fn};
use core::pin::{Pin, pin};
use core::sync::atomic::Ordering;
use core::task::Poll;

use topomem::shootdown::Tlb;
use topomem::{CpuId, FrameRequest, Order, PageSize};

use super::{KERNEL, Worker};
use crate::shared::unresponsive::Stage;
use crate::{Failure, Record, Report, Rig, Text};

/// Operations that each other CPU has to finish after the report: several times what its magazine
/// and its heap hold, so that a frame that was freed early is handed out again.
const OPERATIONS: u64 = 500;
/// After how many timeouts of the waiters the unresponsive CPU gives up.
const LONGEST: u64 = 6;

impl<R: Rig> Worker<'_, R> {
    pub(crate) async fn work_beside_an_unresponsive_cpu(&mut self) {
        let last = self.run.rig.cpus() - 1;
        if last == 0 {
            return self.refused("ignoring shootdowns", Text::display(&"nobody else is there to notice"));
        }
        if self.cpu.index() == last {
            self.ignore_shootdowns().await;
        } else if self.cpu == CpuId::BOOT {
            self.unmap_beside_an_unresponsive_cpu().await;
            self.run.stop();
        } else {
            self.work().await;
        }
    }

    async fn ignore_shootdowns(&mut self) {
        let run = self.run;
        self.reach(Stage::Mapped).await;
        let page = &run.spaces[KERNEL].pages[0];
        let expected = page.slot.tag(page.slot.state().version).encode();
        let platform = *run.rig.service().platform();
        let start = platform.now();
        let longest = platform.unresponsive_timeout().0.saturating_mul(LONGEST);
        let others: u64 = self.others().map(|cpu| self.operations_of(cpu)).sum();
        let mut targets = Vec::with_capacity(run.rig.cpus());
        let mut found = run.rig.load(page.address);
        let mut looks = None;
        run.rig.ignore_shootdowns(|| {
            run.unresponsive.enter(Stage::Unresponsive);
            let reported = run.rig.reported().is_some();
            // From the report on: whoever takes that for an answer shall be seen to.
            if reported && targets.is_empty() {
                targets.extend(self.others().map(|cpu| (cpu, self.operations_of(cpu) + OPERATIONS)));
            }
            let went_on = targets.iter().all(|&(cpu, target)| self.operations_of(cpu) >= target);
            // However late the boot CPU's thread runs: it looks once more.
            if reported && went_on {
                looks.get_or_insert(run.unresponsive.looks() + 2);
            }
            let enough =
                looks.is_some_and(|looks| run.unresponsive.looks() >= looks) || found != Some(expected);
            if found == Some(expected) {
                found = run.rig.load(page.address);
            }
            if !(enough || run.is_stopped() || platform.now().since(start).0 > longest) {
                return false;
            }
            run.unresponsive.enter(Stage::Responsive);
            true
        });
        if found != Some(expected) {
            run.fail(Failure::StaleTranslation {
                cpu: self.cpu,
                space: self.space_name(KERNEL),
                address: page.address,
                expected,
                found: found.unwrap_or(0),
            });
        }
        for (cpu, target) in targets {
            let missing = target.saturating_sub(self.operations_of(cpu));
            if missing > 0 {
                run.fail(Failure::HeldUp { cpu, unresponsive: self.cpu, missing });
            }
        }
        let meanwhile = self.others().map(|cpu| self.operations_of(cpu)).sum::<u64>() - others;
        match run.rig.reported() {
            Some(report) => run.rig.report(Record::Unresponsive { report, meanwhile }),
            None => run.fail(Failure::Unreported { cpu: self.cpu }),
        }
    }

    async fn unmap_beside_an_unresponsive_cpu(&mut self) {
        let run = self.run;
        let unresponsive = CpuId::new(run.rig.cpus() - 1);
        let space = &run.spaces[KERNEL];
        let page = &space.pages[0];
        let Ok(frame) = run.rig.service().alloc(&self.pin, &FrameRequest::frame()) else {
            return self.refused("allocating a frame", Text::display(&"exhausted"));
        };
        let Some(held) = self.take_in(frame, Order::FRAME) else { return };
        let tag = page.slot.tag(page.slot.state().version).encode();
        self.word(frame, 0).store(tag, Ordering::Release);
        let target = space.space();
        let size = PageSize::Size4KiB;
        // SAFETY: the frame was just allocated as a single one, and is given up if this succeeds.
        let mapped = unsafe { target.map_owned(&self.pin, page.address, size, frame, space.writable()) };
        if let Err(error) = mapped {
            return self.refused("mapping a page", Text::display(&error));
        }
        run.unresponsive.enter(Stage::Mapped);
        self.reach(Stage::Unresponsive).await;
        let before = run.rig.service().shootdown().kernel().generation();
        // The space may free it from here on.
        self.release(frame, Order::FRAME, held.holder);
        match target.unmap(&self.pin, page.range()) {
            Ok(unmapping) => self.look_until(pin!(unmapping.into_future())).await,
            Err(error) => return self.refused("unmapping a page", Text::display(&error)),
        }
        if !run.unresponsive.has(Stage::Responsive) {
            // The frame is this CPU's to hand out now: the unresponsive one shall see it change.
            while !run.unresponsive.has(Stage::Responsive) && !run.is_stopped() {
                self.frames_step();
                super::yield_now().await;
            }
            return self.refused("waiting for an unresponsive CPU", Text::display(&"it was not waited for"));
        }
        let now = run.rig.service().shootdown().kernel().generation();
        if let Some(Report { cpu, generation, .. }) = run.rig.reported()
            && (Some(cpu) != unresponsive || generation <= before || generation > now)
        {
            self.refused("reporting the unresponsive CPU", Text::debug(&(cpu, generation, before, now)));
        }
    }

    /// Awaits `done`, and notes each look at it.
    async fn look_until(&self, mut done: Pin<&mut impl Future<Output = ()>>) {
        while !poll_fn(|context| Poll::Ready(done.as_mut().poll(context).is_ready())).await {
            self.run.unresponsive.look();
            self.run.rig.rest(1).await;
        }
    }

    /// Idles until another CPU has entered `stage`.
    async fn reach(&self, stage: Stage) {
        while !self.run.unresponsive.has(stage) && !self.run.is_stopped() {
            self.run.rig.rest(1).await;
        }
    }

    /// The CPUs that neither are unresponsive nor wait for the one that is.
    fn others(&self) -> impl Iterator<Item = CpuId> + use<R> {
        (1..self.run.rig.cpus() - 1).filter_map(CpuId::new)
    }

    fn operations_of(&self, cpu: CpuId) -> u64 {
        // Relaxed: a count orders nothing.
        self.run.counters(cpu).operations.load(Ordering::Relaxed)
    }
}
