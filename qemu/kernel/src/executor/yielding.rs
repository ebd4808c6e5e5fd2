//! Letting the CPU's other tasks run.

use core::pin::Pin;
use core::task::{Context, Poll};

/// Ready at the next poll: the CPU's other runnable tasks come first.
pub(crate) fn yield_now() -> YieldNow {
    YieldNow { yielded: false }
}

/// [`yield_now`]'s future.
#[derive(Debug)]
pub(crate) struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
