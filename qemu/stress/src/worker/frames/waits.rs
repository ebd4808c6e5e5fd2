//! Waiting for a frame: a future that is polled for a while, then has one or is dropped.

use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::sync::atomic::Ordering;
use core::task::Poll;

use topomem::Order;
use topomem::frames::FrameRequest;

use crate::worker::Worker;
use crate::{Rig, Text};

/// How many milliseconds a future is polled for before it is given up: some time slices of a host
/// that runs several CPUs on one of its own.
const TIMEOUT: u64 = 20;

impl<R: Rig> Worker<'_, R> {
    /// Awaits a frame. Where memory stays exhausted the future is dropped in the middle of its
    /// wait, and the account at the end tells whether that lost a frame.
    pub(in crate::worker) async fn wait_step(&mut self) {
        if self.frames.len() == crate::worker::HELD {
            self.make_room();
        }
        let future = pin!(self.run.rig.service().frames().alloc_async(FrameRequest::frame()));
        let start = self.run.elapsed();
        match unless(future, || self.run.elapsed() - start > TIMEOUT).await {
            Some((Ok(frame), pending)) => {
                if let Some(held) = self.take_in(frame, Order::FRAME) {
                    self.keep(held);
                }
                if pending > 0 {
                    self.run.counters(self.cpu).waits.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some((Err(error), _)) => self.refused("awaiting a frame", Text::display(&error)),
            // Everyone may be waiting for everyone else to free something.
            None => self.make_room(),
        }
    }
}

/// The future's output, and how often it was pending before; `None` once `enough` says so. Each
/// turn lets the executor run other tasks.
async fn unless<F: Future>(mut future: Pin<&mut F>, enough: impl Fn() -> bool) -> Option<(F::Output, u64)> {
    let mut pending = 0;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some((output, pending))),
        Poll::Pending if enough() => Poll::Ready(None),
        Poll::Pending => {
            pending += 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}
