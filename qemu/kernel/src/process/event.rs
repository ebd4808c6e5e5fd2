//! Waiting until something has come true.

extern crate alloc;

use alloc::vec::Vec;
use core::fmt;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use spin::mutex::SpinMutex;

use crate::executor::sleep;
use crate::per_cpu::Polling;

/// Tasks that wait for something that other tasks do. Handlers do not use it.
pub struct Event {
    waiting: SpinMutex<Vec<Waker>, Polling>,
}

impl Event {
    /// Nobody waits.
    pub const fn new() -> Event {
        Event { waiting: SpinMutex::new(Vec::new()) }
    }

    /// Has all that wait look again. Called after what they wait for has changed.
    pub fn notify(&self) {
        let waiting = core::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready once `look` returns something. It is called now, and after each [`Event::notify`].
    pub fn wait<T, L: FnMut() -> Option<T> + Unpin>(&self, look: L) -> Wait<'_, L> {
        Wait { event: self, look }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").finish_non_exhaustive()
    }
}

/// [`Event::wait`]'s future.
#[derive(Debug)]
pub struct Wait<'e, L> {
    event: &'e Event,
    look: L,
}

impl<T, L: FnMut() -> Option<T> + Unpin> Future for Wait<'_, L> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(found) = (self.look)() {
            return Poll::Ready(found);
        }
        let mut waiting = self.event.waiting.lock();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            if waiting.try_reserve(1).is_ok() {
                waiting.push(context.waker().clone());
            } else {
                // No memory to be noted in: the task looks again by itself.
                context.waker().wake_by_ref();
            }
        }
        drop(waiting);
        // What changed after the first look and before the note has woken nobody.
        match (self.look)() {
            Some(found) => Poll::Ready(found),
            None => Poll::Pending,
        }
    }
}

/// Awaits `future`, but no longer than `time`. Returns `None` after that.
pub async fn with_limit<F: Future>(future: F, time: Option<Duration>) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut limit = pin!(time.map(sleep));
    core::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        match limit.as_mut().as_pin_mut() {
            Some(limit) => limit.poll(context).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}
