//! The `x86_64` crate's `Translate`, for code written against the crate.

use x86_64::structures::paging::mapper::{MappedFrame, Translate, TranslateResult};

use super::super::AddressSpace;
use super::flags::flags_of;
use super::frame_of_crate;
use crate::Machine;
use topomem_shootdown::{PageSize, VirtAddr};

impl<P: Machine> Translate for AddressSpace<P> {
    fn translate(&self, address: x86_64::VirtAddr) -> TranslateResult {
        let address = VirtAddr::from(address);
        let pin = self.core.service.platform().pin();
        let Some(found) = AddressSpace::translate(self, &pin, address) else {
            return TranslateResult::NotMapped;
        };
        let first = found.leaf.frame;
        let frame = match found.size {
            PageSize::Size4KiB => MappedFrame::Size4KiB(frame_of_crate(first)),
            PageSize::Size2MiB => MappedFrame::Size2MiB(frame_of_crate(first)),
            PageSize::Size1GiB => MappedFrame::Size1GiB(frame_of_crate(first)),
        };
        let offset = address.as_u64() & (found.size.bytes() - 1);
        TranslateResult::Mapped { frame, offset, flags: flags_of(&found) }
    }
}
