//! Errors that wrap others give them as their source.
#![cfg(not(loom))]

use std::error::Error;
use std::iter::successors;

use topomem::numa::tables::{Table, TableError};
use topomem::numa::{BootAllocError, Diagnostic, MapFull, MemoryRange};
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

#[test]
fn errors_of_boot_memory_and_of_tables_give_their_source() {
    let range = MemoryRange::new(topomem::PhysAddr::new(0), topomem::PhysAddr::new(4096)).unwrap();
    let full = MapFull::Usable { range, capacity: 1 };
    assert_eq!(depth(&BootError::Frames(InitError::Metadata(BootAllocError::MapFull(full)))), 3);
    let error = TableError::Truncated { table: Table::Madt, found: 3, needed: 44 };
    assert_eq!(depth(&Diagnostic::Table(error)), 1);
    assert_eq!(depth(&Diagnostic::TooManyCpus(topomem::ApicId(1))), 0);
}
