//! The `x86_64` crate's `Translate`, for code that is written against it.

use x86_64::structures::paging::mapper::{MappedFrame, Translate, TranslateResult};
use x86_64::structures::paging::{PageTableFlags, PhysFrame};

use super::{AddressSpace, Translation};
use crate::Machine;
use crate::page_table::{Cache, Privilege, Reach};
use topomem_shootdown::{PageSize, VirtAddr};

fn flags(found: &Translation) -> PageTableFlags {
    let protection = found.leaf.protection;
    let mut flags = PageTableFlags::PRESENT;
    flags.set(PageTableFlags::WRITABLE, protection.access().writes());
    flags.set(PageTableFlags::NO_EXECUTE, !protection.access().executes());
    flags.set(PageTableFlags::USER_ACCESSIBLE, protection.privilege() == Privilege::User);
    flags.set(PageTableFlags::GLOBAL, found.leaf.reach == Reach::Global);
    flags.set(PageTableFlags::HUGE_PAGE, found.size > PageSize::Size4KiB);
    flags.set(PageTableFlags::WRITE_THROUGH, protection.cache() != Cache::WriteBack);
    flags.set(PageTableFlags::NO_CACHE, protection.cache() == Cache::Uncached);
    flags
}

impl<P: Machine> Translate for AddressSpace<P> {
    fn translate(&self, address: x86_64::VirtAddr) -> TranslateResult {
        let address = VirtAddr::from(address);
        let pin = self.core.service.platform().pin();
        let Some(found) = AddressSpace::translate(self, &pin, address) else {
            return TranslateResult::NotMapped;
        };
        let start = found.leaf.frame.start_address();
        let frame = match found.size {
            PageSize::Size4KiB => MappedFrame::Size4KiB(found.leaf.frame),
            PageSize::Size2MiB => MappedFrame::Size2MiB(PhysFrame::containing_address(start)),
            PageSize::Size1GiB => MappedFrame::Size1GiB(PhysFrame::containing_address(start)),
        };
        let offset = address.as_u64() & (found.size.bytes() - 1);
        TranslateResult::Mapped { frame, offset, flags: flags(&found) }
    }
}
