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
pub(crate) struct Event {
    waiting: SpinMutex<Vec<Waker>, Polling>,
}

impl Event {
    /// Nobody waits.
    pub(crate) const fn new() -> Event {
        Event { waiting: SpinMutex::new(Vec::new()) }
    }

    /// Has all that wait look again. Called after what they wait for has changed.
    pub(crate) fn notify(&self) {
        let waiting = core::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready once `look` returns something. It is called now, and after each [`Event::notify`].
    pub(crate) fn wait<T, L: FnMut() -> Option<T> + Unpin>(&self, look: L) -> Wait<'_, L> {
        Wait { note: Note { event: self, waker: None }, look }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").finish_non_exhaustive()
    }
}

/// [`Event::wait`]'s future.
#[derive(Debug)]
pub(crate) struct Wait<'e, L> {
    note: Note<'e>,
    look: L,
}

/// A task's place among those that wait. Given up when dropped: a waker keeps its task's memory.
#[derive(Debug)]
struct Note<'e> {
    event: &'e Event,
    /// What was noted last; [`Event::notify`] may have taken it since.
    waker: Option<Waker>,
}

impl Note<'_> {
    /// Notes `waker` in the place of what was noted before.
    fn renew(&mut self, waker: &Waker) {
        if self.waker.as_ref().is_some_and(|noted| noted.will_wake(waker)) && self.is_there() {
            return;
        }
        self.give_up();
        let mut waiting = self.event.waiting.lock();
        if waiting.try_reserve(1).is_ok() {
            waiting.push(waker.clone());
            drop(waiting);
            self.waker = Some(waker.clone());
        } else {
            drop(waiting);
            // No memory to be noted in: the task looks again by itself.
            waker.wake_by_ref();
        }
    }

    fn is_there(&self) -> bool {
        let waiting = self.event.waiting.lock();
        self.waker.as_ref().is_some_and(|noted| waiting.iter().any(|waker| waker.will_wake(noted)))
    }

    fn give_up(&mut self) {
        let Some(noted) = self.waker.take() else { return };
        let mut waiting = self.event.waiting.lock();
        let place = waiting.iter().position(|waker| waker.will_wake(&noted));
        let waker = place.map(|place| waiting.swap_remove(place));
        let list = if waiting.is_empty() { core::mem::take(&mut *waiting) } else { Vec::new() };
        // Without the lock: the last waker of a task drops the task.
        drop(waiting);
        drop((waker, list));
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<T, L: FnMut() -> Option<T> + Unpin> Future for Wait<'_, L> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(found) = (self.look)() {
            return Poll::Ready(found);
        }
        self.note.renew(context.waker());
        // What changed after the first look and before the note has woken nobody.
        match (self.look)() {
            Some(found) => Poll::Ready(found),
            None => Poll::Pending,
        }
    }
}

/// Awaits `future`, but no longer than `time`. Returns `None` after that.
pub(crate) async fn with_limit<F: Future>(future: F, time: Option<Duration>) -> Option<F::Output> {
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
