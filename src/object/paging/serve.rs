//! Serving requests: between a queue and a pager.

use core::convert::Infallible;
use core::ptr::NonNull;

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{Order, PhysFrame};

use super::pager::{Pager, PagerError};
use super::queue::{Job, PagerQueue, Wanted};
use crate::Machine;
use crate::object::core::ObjectCore;
use crate::object::pages::word::{State, Word};
use crate::service::MemoryService;
use crate::service::memory::frame_memory;

/// A frame for copies of pages being written back: programs may write to a page meanwhile.
struct Copy<P: Machine> {
    service: &'static MemoryService<P>,
    frame: PhysFrame,
}

impl<P: Machine> Drop for Copy<P> {
    fn drop(&mut self) {
        let pin = self.service.platform().pin();
        // SAFETY: the frame was allocated for the copies, and is not used any more.
        unsafe { frame_memory::release_own(self.service.frames(), &pin, self.frame, Order::FRAME) };
    }
}

/// Returns the bytes of a frame.
fn bytes<P: Machine>(service: &MemoryService<P>, frame: PhysFrame) -> NonNull<[u8]> {
    let start = service.platform().phys_to_virt(frame.start_address());
    NonNull::slice_from_raw_parts(start, 4096)
}

impl<P: Machine> PagerQueue<P> {
    /// Serves one request after the other with `pager`, for ever: the future is a task of the
    /// kernel. Several tasks may serve a queue. A drop in the middle of a request answers
    /// [`PagerError::Stopped`](crate::object::PagerError::Stopped).
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`], at the beginning, if no frame is left for copies of pages to write
    /// back.
    pub async fn serve(
        &'static self,
        service: &'static MemoryService<P>,
        pager: &impl Pager,
    ) -> Result<Infallible, AllocError> {
        let copy = Copy { service, frame: service.alloc_async(FrameRequest::frame()).await? };
        loop {
            let job = self.next().await;
            let Some(key) = job.object.core().key() else { continue };
            let outcome = match job.wanted {
                Wanted::Read { page, frame } => {
                    // SAFETY: the request owns the frame until it is answered.
                    let to = unsafe { bytes(service, frame).as_mut() };
                    pager.read_in(key, page << 12, to).await
                }
                Wanted::Write { page } => match job.object.core().copy_page(page, copy.frame) {
                    // The page has gone meanwhile, with nothing to write.
                    0 => Ok(()),
                    length => {
                        // SAFETY: the task owns the frame.
                        let from = unsafe { bytes(service, copy.frame).as_ref() };
                        pager.write_back(key, page << 12, &from[..length]).await
                    }
                },
                Wanted::Discard { first, last } => pager.discard(key, first << 12..(last + 1) << 12).await,
            };
            job.answer(outcome);
        }
    }
}

impl<P: Machine> ObjectCore<P> {
    /// Copies the page `page` to `frame`, owned by the caller. Returns the number of bytes
    /// belonging to the object.
    fn copy_page(&self, page: u64, frame: PhysFrame) -> usize {
        let length = self.bytes_of(page);
        match self.index.get(self.service, page).and_then(|word| self.use_page(word)) {
            Some(used) if length > 0 => {
                // SAFETY: the page's frame stays while it is used, and the caller owns the other
                // frame.
                unsafe { frame_memory::copy(self.service.frames(), used.frame(), frame) };
                length
            }
            _ => 0,
        }
    }

    /// Returns the number of bytes of the page `page` belonging to the object.
    pub(crate) fn bytes_of(&self, page: u64) -> usize {
        // Acquire pairs with the Release in `set_size`.
        self.size.load(Ordering::Acquire).saturating_sub(page << 12).min(4096) as usize
    }

    /// Notes the outcome of a request in the page's word, before the answer.
    pub(super) fn note_answer(&self, job: &Job<P>, outcome: Result<(), PagerError>) {
        match job.wanted {
            Wanted::Read { page, frame } => self.note_read(job, outcome, page, frame),
            Wanted::Write { page } => {
                if let Some(word) = self.index.get(self.service, page) {
                    word.end_writing(outcome.map_err(drop));
                }
            }
            Wanted::Discard { .. } => self.end_discard(),
        }
    }

    fn note_read(&self, job: &Job<P>, outcome: Result<(), PagerError>, page: u64, frame: PhysFrame) {
        let loading = Word::loading(job.slot());
        let word = self.index.get(self.service, page);
        if outcome.is_ok() {
            zero_tail(self.service, frame, self.bytes_of(page));
            let present = Word::present(frame);
            let present = if job.is_awaited() { present.pinned() } else { present };
            // Counted first: a remover of the page counts it out.
            self.resident.fetch_add(1, Ordering::Relaxed);
            if word.is_some_and(|word| word.replace(loading, present).is_ok()) {
                return;
            }
            self.resident.fetch_sub(1, Ordering::Relaxed);
        } else if let Some(word) = word {
            // The next access asks again; or the page was cut off meanwhile.
            let _ = word.replace(loading, Word::ABSENT);
        }
        let pin = self.service.platform().pin();
        // SAFETY: the request owned the frame.
        unsafe { frame_memory::release_own(self.service.frames(), &pin, frame, Order::FRAME) };
    }

    /// Notes the departure of the last waiter for the page `page`.
    pub(super) fn unpin(&self, page: u64) {
        if let Some(word) = self.index.get(self.service, page) {
            word.update(|now| {
                matches!(now.state(), State::Present(_) | State::Dead).then_some(now.unpinned())
            });
        }
    }
}

/// Zeroes the bytes of `frame` from `from` on.
pub(super) fn zero_tail<P: Machine>(service: &MemoryService<P>, frame: PhysFrame, from: usize) {
    crate::object::pages::bytes::fill(service, frame, from, 4096 - from);
}
