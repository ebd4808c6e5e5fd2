//! What waits for invalidations with nobody waiting for it.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

mod machine;

use machine::*;
use topomem_shootdown::{Deferred, Full, Invalidation};

#[test]
fn a_thing_comes_out_when_every_cpu_has_flushed() {
    let queue = queue(2);
    let kernel = queue.kernel();
    let mut deferred: Deferred<&str, 4> = Deferred::new();
    let issue = || queue.invalidate(&run_as(0), kernel, Invalidation::domain()).detach();
    deferred.push(issue(), "first").unwrap();
    assert_eq!(deferred.pop_done(queue, kernel), None);
    assert!(queue.tlb().deliver(queue, 1));
    deferred.push(issue(), "second").unwrap();
    assert_eq!((deferred.len(), deferred.is_empty()), (2, false));
    assert_eq!(deferred.pop_done(queue, kernel), Some("first"));
    assert_eq!(deferred.pop_done(queue, kernel), None, "CPU 1 has not flushed for the second");
    assert!(queue.tlb().deliver(queue, 1));
    assert_eq!(deferred.pop_done(queue, kernel), Some("second"));
    assert!(deferred.is_empty());
}

#[test]
fn a_full_list_gives_the_thing_back() {
    let queue = queue(2);
    let request = queue.invalidate(&run_as(0), queue.kernel(), Invalidation::domain()).detach();
    let mut deferred: Deferred<u32, 2> = Deferred::new();
    deferred.push(request, 1).unwrap();
    deferred.push(request, 2).unwrap();
    assert_eq!(deferred.push(request, 3), Err(Full(3)));
    assert!(queue.tlb().deliver(queue, 1));
    assert_eq!([(); 3].map(|()| deferred.pop_done(queue, queue.kernel())), [Some(1), Some(2), None]);
}
