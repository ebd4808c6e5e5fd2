//! Waiting for a pager.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::ptr;
use core::task::{Context, Poll, Waker};

use super::pager::PagerError;

/// The source of a request's answer.
pub(in crate::object) trait Answers: Sync {
    /// Returns the answer to the request in `slot`, or arranges a call of `waker` when it is
    /// available.
    fn poll(&self, slot: usize, waker: Option<&Waker>) -> Poll<Result<(), PagerError>>;

    /// Counts out a waiter of the request in `slot`.
    fn leave(&self, slot: usize);
}

/// A wait for a page being read in, or for another request to a pager.
///
/// The future resolves to `Ok` when the page is in memory. The access is then to be repeated from
/// scratch; the page stays in memory until the future is dropped. The future resolves to an error
/// if the pager failed. [`PageWait::wait`] is the blocking form. The future may be dropped at any
/// time.
#[must_use = "the access is made again when it is ready"]
pub struct PageWait {
    answers: &'static dyn Answers,
    slot: usize,
    /// The answer, kept after the first poll returning it.
    answer: Option<Result<(), PagerError>>,
}

impl PageWait {
    /// Returns the wait of a counted waiter.
    pub(in crate::object) fn new(answers: &'static dyn Answers, slot: usize) -> PageWait {
        PageWait { answers, slot, answer: None }
    }

    fn poll_with(&mut self, waker: Option<&Waker>) -> Poll<Result<(), PagerError>> {
        if let Some(answer) = self.answer {
            return Poll::Ready(answer);
        }
        let polled = self.answers.poll(self.slot, waker);
        if let Poll::Ready(answer) = polled {
            self.answer = Some(answer);
        }
        polled
    }

    /// Returns the answer, if available.
    ///
    /// # Errors
    ///
    /// The answer is a [`PagerError`] if the pager failed.
    pub fn try_answer(&mut self) -> Option<Result<(), PagerError>> {
        match self.poll_with(None) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    /// Waits for the answer. Calls `relax` meanwhile to let remote CPUs, or other tasks, serve the
    /// pager.
    ///
    /// # Errors
    ///
    /// Returns [`PagerError`] if the pager failed.
    pub fn wait(mut self, mut relax: impl FnMut()) -> Result<(), PagerError> {
        loop {
            if let Some(answer) = self.try_answer() {
                return answer;
            }
            relax();
        }
    }
}

impl Future for PageWait {
    type Output = Result<(), PagerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(Some(context.waker()))
    }
}

impl Drop for PageWait {
    fn drop(&mut self) {
        self.answers.leave(self.slot);
    }
}

impl PartialEq for PageWait {
    fn eq(&self, other: &PageWait) -> bool {
        ptr::addr_eq(self.answers, other.answers) && self.slot == other.slot
    }
}

impl Eq for PageWait {}

impl fmt::Debug for PageWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageWait").field("request", &self.slot).field("answer", &self.answer).finish()
    }
}
