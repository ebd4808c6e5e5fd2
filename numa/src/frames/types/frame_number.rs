//! Frames by number: physical address / 4096.

use topomem_percpu::{PhysAddr, PhysFrame};

/// Returns the frame numbered `number`.
pub(in crate::frames) fn frame(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number << 12))
}

/// Returns the number of a frame.
pub(in crate::frames) fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() >> 12
}
