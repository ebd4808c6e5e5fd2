//! The injected fault is one that tests see.
#![cfg(all(not(loom), feature = "fault-injection"))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

mod frames_support;

use frames_support::{Machine, online, pin};
use topomem_numa::frames::{Corruption, Fault, FrameRequest, FramesConfig};

#[test]
fn duplicating_magazines_hand_out_frames_twice() {
    let frames = Machine::simple(4, 2).frames(&FramesConfig::without_reserve());
    online(frames, 2);
    frames.inject(Fault::MagazineDuplicates);
    let first = frames.alloc(&pin(0), &FrameRequest::frame()).unwrap();
    assert!(matches!(frames.validate(), Err(Corruption::Duplicate { .. })));
    let again = (0..65).filter(|_| frames.alloc(&pin(0), &FrameRequest::frame()) == Ok(first)).count();
    assert_eq!(again, 1);
}
