//! Errors that wrap others give them as their source.
#![cfg(not(loom))]

use std::error::Error;
use std::iter::successors;

use topomem::numa::BootAllocError;
use topomem::{AllocError, BootError, InitError, MapError, OnlineError, RangeError, frames};

/// Returns the number of errors behind `error`.
fn depth(error: &(dyn Error + 'static)) -> usize {
    successors(error.source(), |&error| error.source()).count()
}

#[test]
fn an_error_gives_the_error_that_it_wraps() {
    let error = MapError::OutOfFrames(AllocError::NotReady);
    let source = error.source().and_then(|source| source.downcast_ref());
    assert_eq!(source, Some(&AllocError::NotReady));
    assert!(MapError::WrongPrivilege.source().is_none());
}

#[test]
fn chains_reach_the_first_cause() {
    assert_eq!(depth(&RangeError::Map(MapError::OutOfFrames(AllocError::NotReady))), 2);
    assert_eq!(depth(&BootError::Frames(InitError::Metadata(BootAllocError::Empty))), 2);
    let online = OnlineError::Frames(frames::OnlineError::NotReady);
    assert_eq!(depth(&BootError::<BootAllocError>::Cpu(online)), 2);
}
