//! Pages that a pager has to read in.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};

use topomem::object::{PageWait, PagerError};
use topomem::region::{FaultError, Resolved, Sharing};

use super::{FIRST, read, write};
use crate::object_support::{Bench, PagerFile, run_pending_work};

#[test]
fn a_fault_waits_for_the_pager() {
    let bench = Bench::new(2);
    let file = PagerFile::new(&bench, 4);
    bench.serve_while(&file, |pin| {
        let object = file.object(&bench, pin, 3 << 12);
        let space = bench.space(pin);
        bench.map(pin, &space, &object, FIRST, 3, 0, Sharing::Shared);
        let Err(FaultError::Waits(mut first)) = space.on_page_fault(pin, read(FIRST + 1)) else {
            panic!("a page that has to be read in")
        };
        let again = space.on_page_fault(pin, read(FIRST + 1));
        assert!(again == Ok(Resolved::ObjectPage) || matches!(again, Err(FaultError::Waits(_))));
        while first.try_answer().is_none() {
            bench.sim.take_interrupts();
        }
        assert_eq!(first.try_answer(), Some(Ok(())));
        // It stays until the future is dropped.
        assert_eq!(object.evict(pin, 0..u64::MAX), 0);
        let tried_at_once = u64::from(again.is_ok());
        assert_eq!((space.major_faults(), space.minor_faults()), (0, tried_at_once), "nothing was answered");
        assert_eq!(space.on_page_fault(pin, read(FIRST + 1).after_wait()).map(|_| ()), Ok(()));
        assert_eq!(bench.load(pin, &space, FIRST + 1), file.initial(1));
        drop(first);
        drop(again);
        assert_eq!(file.reads(), 1, "both waited for one request");
        // Each fault counts once, however often it was tried.
        assert_eq!((space.major_faults(), space.minor_faults()), (1, tried_at_once));
        assert_eq!(object.evict(pin, 0..u64::MAX), 1);
        assert_eq!(bench.load(pin, &space, FIRST + 1), file.initial(1));
        assert_eq!(file.reads(), 2);
        bench.finish(pin, [space], [object]);
    });
}

/// A waker may take the lock that its kernel drops a task under.
#[test]
fn a_dropped_task_of_a_pager_calls_no_waker() {
    struct Counted(AtomicU64);
    impl Wake for Counted {
        fn wake(self: Arc<Counted>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let bench = Bench::new(1);
    let file = PagerFile::new(&bench, 4);
    file.hold(true);
    bench.on(|pin| {
        let object = file.object(&bench, pin, 4 << 12);
        let space = bench.space(pin);
        bench.map(pin, &space, &object, FIRST, 4, 0, Sharing::Private);
        let calls = Arc::new(Counted(AtomicU64::new(0)));
        let waker = Waker::from(calls.clone());
        let mut serve = Box::pin(file.requests.serve(bench.service, &file));
        let mut waits: Vec<PageWait> = (0..2)
            .map(|page| match space.on_page_fault(pin, read(FIRST + page)) {
                Err(FaultError::Waits(mut wait)) => {
                    assert!(Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)).is_pending());
                    wait
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(serve.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(serve);
        assert_eq!(calls.0.load(Ordering::SeqCst), 0, "a waker was called inside a drop");
        // The one request was begun, the other one waits for another task.
        let answers: Vec<_> = waits.iter_mut().map(PageWait::try_answer).collect();
        assert!(answers.contains(&Some(Err(PagerError::Stopped))) && answers.contains(&None));
        assert!(bench.service.wake_is_due(pin));
        run_pending_work(bench.sim, bench.service, pin);
        assert_eq!(calls.0.load(Ordering::SeqCst), 1);
        file.hold(false);
        let mut serve = Box::pin(file.requests.serve(bench.service, &file));
        assert!(serve.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(calls.0.load(Ordering::SeqCst), 2);
        drop(waits);
        drop(serve);
        bench.finish(pin, [space], [object]);
    });
}

#[test]
fn a_pager_that_fails_or_stops_loses_nothing() {
    let bench = Bench::new(2);
    let file = PagerFile::new(&bench, 4);
    file.fail(true);
    bench.serve_while(&file, |pin| {
        let object = file.object(&bench, pin, 4 << 12);
        let space = bench.space(pin);
        bench.map(pin, &space, &object, FIRST, 4, 0, Sharing::Private);
        let Err(FaultError::Waits(wait)) = space.on_page_fault(pin, write(FIRST)) else { panic!() };
        assert_eq!(wait.wait(|| bench.relax()), Err(PagerError::Failed));
        assert_eq!(object.resident_pages(), 0);
        file.fail(false);
        bench.store(pin, &space, FIRST, 1);
        bench.finish(pin, [space], [object]);
    });
    // Nobody serves any more: a request stays, and goes with its object's last user.
    bench.on(|pin| {
        let object = file.object(&bench, pin, 4 << 12);
        let space = bench.space(pin);
        bench.map(pin, &space, &object, FIRST, 4, 0, Sharing::Private);
        let waits: Vec<FaultError> =
            (0..2).map(|_| space.on_page_fault(pin, read(FIRST + 1)).unwrap_err()).collect();
        assert_eq!(waits[0], waits[1], "one request");
        drop(waits);
        drop(space);
        drop(object);
        run_pending_work(bench.sim, bench.service, pin);
    });
    bench.serve_while(&file, |pin| {
        // The request is answered now, and gives its frame back.
        while file.reads() < 3 {
            bench.relax();
        }
        bench.wait_for_frames(pin);
    });
}
