//! The per-frame table.
#![cfg(not(loom))]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::ptr;
use std::sync::atomic::Ordering;

use topomem_numa::frames::{FrameInfo, Frames, FramesConfig, PerFrameTable};
use topomem_percpu::{PhysAddr, PhysFrame};

mod frames_support;

use frames_support::{Host, MIB, Machine};

/// The entry of every frame from `start` to `end`, in bytes.
fn entries(frames: &Frames<Host>, start: u64, end: u64) -> Vec<&FrameInfo> {
    let step = if cfg!(miri) { 0x1_f000 } else { 0x1000 };
    (start..end)
        .step_by(step)
        .map(|address| {
            let frame = PhysFrame::containing_address(PhysAddr::new(address));
            let info = frames.info(frame).unwrap();
            // SAFETY: `info` has it.
            assert!(ptr::eq(info, unsafe { frames.info_unchecked(frame) }), "{frame:?}");
            info
        })
        .collect()
}

#[test]
fn each_frame_has_an_entry_of_its_own() {
    // The second 16 MiB from 16 MiB on are of two nodes; the first and third of one each.
    let (start, middle, end) = if cfg!(miri) {
        (16 * MIB, 17 * MIB + 0x5000, 18 * MIB + 0x3000)
    } else {
        (16 * MIB, 40 * MIB + 0x5000, 50 * MIB + 0x3000)
    };
    let machine = Machine::new(&[(start, middle, 0), (middle, end, 1)], &[0]);
    let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::without_reserve() };
    let frames = machine.frames(&config);
    let entries = entries(frames, start, end);
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!(entry.references.swap(number as u32 + 1, Ordering::Relaxed), 0);
        entry.aux.store(!(number as u32), Ordering::Relaxed);
    }
    let distinct: HashSet<u32> =
        entries.iter().map(|entry| entry.references.load(Ordering::Relaxed)).collect();
    assert_eq!(distinct.len(), entries.len());
    for outside in [start - 1, end] {
        assert!(frames.info(PhysFrame::containing_address(PhysAddr::new(outside))).is_none());
    }
    frames.validate().unwrap();
}

#[test]
fn there_is_no_entry_without_a_table() {
    let frames = Machine::simple(4, 1).frames(&FramesConfig::without_reserve());
    assert!(frames.info(PhysFrame::containing_address(PhysAddr::new(17 * MIB))).is_none());
}
