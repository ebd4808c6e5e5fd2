//! What workers repeat.

use core::arch::asm;

use rustix::io::Errno;
use rustix::mm::MapFlags;

use crate::guest::error::GuestError;
use crate::guest::pages::PAGE;
use crate::guest::system::file::{File, Whole};

/// Pages of a mapping each of which is written to: 4 MiB.
pub(super) const TOUCHED: usize = 1024;
/// Pages of a mapping that is not touched: 128 MiB.
const UNTOUCHED: usize = 32 * 1024;
/// The number of `brk`.
const BRK: usize = 12;

/// One operation of a worker, and what it uses.
#[derive(Debug)]
pub(super) enum Operation {
    /// Private memory is mapped, each page written to, and unmapped.
    TouchAnonymous,
    /// So is a file of the worker's own, that is mapped so.
    TouchFile(File, MapFlags),
    /// Private memory is mapped and unmapped.
    MapAnonymous,
    /// The same, and its first page is written to.
    MapAndTouchOne,
    /// A file of the worker's own is privately mapped and unmapped.
    MapFile(File),
    /// The end of the heap moves from here up by a page, and down.
    MoveBreak(usize),
}

impl Operation {
    pub(super) fn touch_private() -> Result<Self, GuestError> {
        Ok(Self::TouchFile(File::written(TOUCHED)?, MapFlags::PRIVATE))
    }

    pub(super) fn touch_shared() -> Result<Self, GuestError> {
        Ok(Self::TouchFile(File::written(TOUCHED)?, MapFlags::SHARED))
    }

    pub(super) fn map_file() -> Result<Self, GuestError> {
        Ok(Self::MapFile(File::create(UNTOUCHED)?))
    }

    pub(super) fn move_break() -> Result<Self, GuestError> {
        Ok(Self::MoveBreak(set_break(0)))
    }

    /// Does it once.
    pub(super) fn perform(&self) -> Result<(), GuestError> {
        match self {
            Self::TouchAnonymous => {
                let mapping = Whole::anonymous(TOUCHED * PAGE)?;
                mapping.write_each();
                mapping.unmap()
            }
            Self::TouchFile(file, sharing) => {
                let mapping = file.whole(*sharing)?;
                mapping.write_each();
                mapping.unmap()
            }
            Self::MapAnonymous => Whole::anonymous(UNTOUCHED * PAGE)?.unmap(),
            Self::MapAndTouchOne => {
                let mapping = Whole::anonymous(UNTOUCHED * PAGE)?;
                mapping.write_first();
                mapping.unmap()
            }
            Self::MapFile(file) => file.whole(MapFlags::PRIVATE)?.unmap(),
            Self::MoveBreak(start) => {
                let up = start + PAGE;
                if set_break(up) < *start {
                    return Err(GuestError::Call { call: "brk", error: Errno::NOMEM });
                }
                set_break(*start);
                Ok(())
            }
        }
    }
}

/// Has the heap end at `address`, if it can. Returns where it ends; other threads may move that, too.
fn set_break(address: usize) -> usize {
    let end: usize;
    // SAFETY: nothing uses what lies above the end that this process began with: no worker allocates while others
    // move the end, and each moves it back.
    unsafe {
        asm!("syscall", inlateout("rax") BRK => end, in("rdi") address, lateout("rcx") _, lateout("r11") _);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_can_be_repeated() {
        let operations = [
            Operation::TouchAnonymous,
            Operation::touch_private().unwrap(),
            Operation::touch_shared().unwrap(),
            Operation::MapAnonymous,
            Operation::MapAndTouchOne,
            Operation::map_file().unwrap(),
        ];
        for operation in &operations {
            operation.perform().unwrap();
            operation.perform().unwrap();
        }
    }
}
