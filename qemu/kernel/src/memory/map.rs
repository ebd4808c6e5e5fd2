//! The memory map that topomem starts from.

use topomem::numa::MapFull;
use topomem::{MemoryMap, MemoryRange};

use crate::arch::paging;
use crate::boot::start_info::{MemoryKind, MemoryMapEntry};

/// Adds the firmware's usable ranges to `map`, and reserves the kernel's image in it.
///
/// # Errors
///
/// [`MapFull`].
pub fn fill(map: &mut MemoryMap, entries: &[MemoryMapEntry]) -> Result<(), MapFull> {
    for entry in entries.iter().filter(|entry| entry.kind() == MemoryKind::Usable) {
        if let Some(range) = MemoryRange::new(entry.start(), entry.end()) {
            map.add_usable(range)?;
        }
    }
    for entry in entries.iter().filter(|entry| entry.kind() != MemoryKind::Usable) {
        if let Some(range) = MemoryRange::new(entry.start(), entry.end()) {
            map.reserve(range, "firmware")?;
        }
    }
    let (start, end) = paging::image();
    if let Some(range) = MemoryRange::new(start, end) {
        map.reserve(range, "kernel image")?;
    }
    Ok(())
}
