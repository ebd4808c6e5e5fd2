//! What one CPU hands to another: a run of frames or a heap object, with what the receiver needs
//! to check it and free it.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use topomem::{Order, PhysAddr, PhysFrame};

use super::ring::Message;
use crate::oracle::Holder;

/// A run of frames that the scenario holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldFrames {
    pub frame: PhysFrame,
    pub order: Order,
    pub holder: Holder,
}

/// A heap object that the scenario holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldObject {
    pub memory: NonNull<u8>,
    pub layout: Layout,
    /// What its bytes were drawn from.
    pub seed: u32,
}

/// Something to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    Frames(HeldFrames),
    Object(HeldObject),
}

const FRAMES: u64 = 0;
const OBJECT: u64 = 1;

impl Transfer {
    pub(crate) fn encode(self) -> Message {
        match self {
            Transfer::Frames(held) => Message {
                head: FRAMES | u64::from(held.order.get()) << 8 | u64::from(held.holder.bits()) << 32,
                pointer: ptr::null_mut(),
                tail: held.frame.start_address().as_u64(),
            },
            Transfer::Object(held) => Message {
                head: OBJECT
                    | u64::from(held.layout.align().trailing_zeros()) << 8
                    | u64::from(held.seed) << 32,
                pointer: held.memory.as_ptr(),
                tail: held.layout.size() as u64,
            },
        }
    }

    /// `None` where `message` is none of [`Transfer::encode`]'s.
    pub(crate) fn decode(message: Message) -> Option<Transfer> {
        let Message { head, pointer, tail } = message;
        let (size, id) = ((head >> 8) as u8, (head >> 32) as u32);
        if head & 0xff == FRAMES {
            let frame = PhysFrame::containing_address(PhysAddr::new(tail));
            let (order, holder) = (Order::new(size)?, Holder::from_bits(id)?);
            return Some(Transfer::Frames(HeldFrames { frame, order, holder }));
        }
        let align = 1usize.checked_shl(u32::from(size))?;
        let layout = Layout::from_size_align(usize::try_from(tail).ok()?, align).ok()?;
        Some(Transfer::Object(HeldObject { memory: NonNull::new(pointer)?, layout, seed: id }))
    }
}

#[cfg(test)]
mod tests {
    use topomem::CpuId;

    use super::*;

    #[test]
    fn transfers_survive_their_encoding() {
        let order = Order::new(3).unwrap();
        let frames = Transfer::Frames(HeldFrames {
            frame: PhysFrame::containing_address(PhysAddr::new(0x12_3000)),
            order,
            holder: Holder::new(CpuId::new(7).unwrap(), order, 99),
        });
        let layout = Layout::from_size_align(24, 64).unwrap();
        let object = Transfer::Object(HeldObject { memory: NonNull::dangling(), layout, seed: u32::MAX });
        for transfer in [frames, object] {
            assert_eq!(Transfer::decode(transfer.encode()), Some(transfer));
        }
    }
}
