//! Models of what a request protects: a frame that its unmapping took out is freed by somebody
//! else, once the request is done, whether or not anybody waits.
#![cfg(loom)]

mod loom_model;

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::task::{Context, Waker};

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;
use loom_model::*;
use topomem_shootdown::{Domain, Request};

/// The frame behind the old translation: loom finds a free that is not ordered behind every use.
struct Frame(UnsafeCell<()>);

// SAFETY: loom checks the accesses, which is what the models are for.
unsafe impl Sync for Frame {}

impl Frame {
    /// CPU `index` uses page 0: the frame, if it still has the old translation.
    fn use_through(&self, queue: &Queue, index: usize) {
        if touch(queue, index, 0) == OLD {
            self.0.with(|_| ());
        }
    }

    fn free(&self) {
        self.0.with_mut(|_| ());
    }
}

/// How CPU 0 lets go of its ticket.
#[derive(Clone, Copy)]
enum LetGo {
    Detached,
    /// Dropped as a future that has registered its waker.
    DroppedFuture,
}

/// CPU 0 unmaps page 0, lets go of the ticket and leaves the frame with its request to CPU 2,
/// which frees it when that is done. CPU 1 uses the page before and after its interrupt.
fn retire(let_go: LetGo, prepare: fn(&Queue)) {
    explore(move || {
        let queue = queue(3);
        prepare(&queue);
        let domain = Arc::new(Domain::new());
        let frame = Arc::new(Frame(UnsafeCell::new(())));
        let retired: Arc<Mutex<Option<Request>>> = Arc::new(Mutex::new(None));
        enter(&queue, 1, &domain);
        let user = {
            let (queue, frame) = (queue.clone(), frame.clone());
            thread::spawn(move || {
                frame.use_through(&queue, 1);
                if deliver(&queue, 1) {
                    frame.use_through(&queue, 1);
                }
            })
        };
        let service = {
            let (queue, domain, retired, frame) =
                (queue.clone(), domain.clone(), retired.clone(), frame.clone());
            thread::spawn(move || {
                run_as(2);
                let request = *retired.lock().unwrap();
                let done = request.is_some_and(|request| queue.is_done(&domain, request));
                if done {
                    frame.free();
                }
                done
            })
        };
        let ticket = change(&queue, 0, &domain, 0);
        let request = match let_go {
            LetGo::Detached => ticket.detach(),
            LetGo::DroppedFuture => {
                let request = ticket.request();
                let future = pin!(ticket.into_future());
                let _ = future.poll(&mut Context::from_waker(Waker::noop()));
                request
            }
        };
        *retired.lock().unwrap() = Some(request);
        user.join().unwrap();
        let freed = service.join().unwrap();
        deliver(&queue, 1);
        assert!(queue.is_done(&domain, request), "a request was lost");
        if !freed {
            frame.free();
        }
    });
}

#[test]
fn a_detached_request_keeps_its_frame() {
    retire(LetGo::Detached, |_| {});
}

#[test]
fn a_dropped_future_keeps_its_frame() {
    retire(LetGo::DroppedFuture, |_| {});
}

#[cfg(feature = "fault-injection")]
mod caught {
    use topomem_shootdown::Fault;

    use super::*;

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn acknowledging_without_flushing() {
        retire(LetGo::Detached, |queue| queue.inject(Some(Fault::SkipFlush)));
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn acknowledging_without_flushing_for_a_dropped_future() {
        retire(LetGo::DroppedFuture, |queue| queue.inject(Some(Fault::SkipFlush)));
    }
}
