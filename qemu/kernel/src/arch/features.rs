//! CPUID bits, and the control-register bits that they allow.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use spin::Once;
use topomem::{PagingFeatures, X64};
use x86_64::registers::control::{Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;

use super::tlb;
use super::user::enable_access_prevention;

/// IA32_PAT: the memory types that page-table entries name.
const PAT: u32 = 0x277;

/// 1 GiB pages (CPUID 8000_0001 EDX bit 26).
pub(crate) fn has_gigabyte_pages() -> bool {
    __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).edx >> 26 & 1 == 1
}

/// How many bits a physical address has (MAXPHYADDR, CPUID 8000_0008 EAX bits 0 to 7); 36 where the
/// CPU does not say, as the SDM has it (volume 3, 4.1.4).
pub(crate) fn physical_address_bits() -> u8 {
    if __cpuid(0x8000_0000).eax >= 0x8000_0008 {
        let [bits, ..] = __cpuid(0x8000_0008).eax.to_le_bytes();
        bits
    } else {
        36
    }
}

/// What the boot CPU's page walker offers, and so every CPU's: CPUID is asked once, since a hypervisor
/// takes long to answer.
pub(crate) fn paging() -> PagingFeatures {
    static PAGING: Once<PagingFeatures> = Once::new();
    *PAGING.call_once(|| {
        let basic = PagingFeatures::BASIC.with_physical_bits(physical_address_bits());
        if has_gigabyte_pages() { basic.with_giant_pages() } else { basic }
    })
}

/// x2APIC (CPUID 1 ECX bit 21).
pub(crate) fn has_x2apic() -> bool {
    __cpuid(1).ecx >> 21 & 1 == 1
}

/// This CPU's APIC id: 32 bits from leaf 0BH where there is one, else 8 bits.
pub(crate) fn apic_id() -> u32 {
    if __cpuid(0).eax >= 0xb && __cpuid_count(0xb, 0).ebx & 0xffff != 0 {
        __cpuid_count(0xb, 0).edx
    } else {
        __cpuid(1).ebx >> 24
    }
}

/// What programs are told of the CPU as its hardware capabilities (CPUID 1 EDX).
pub(crate) fn hwcap() -> u32 {
    __cpuid(1).edx
}

/// Turns on what the kernel relies on beyond long mode: global pages, no-execute, write combining,
/// PCIDs where [`tlb::choose`] chose them, and what of the following the CPU has: SSE registers for user
/// programs, and prevention of three things: that the kernel executes user pages or uses them by mistake,
/// and that user programs read where the kernel's tables lie.
///
/// # Safety
///
/// The active page tables must be the kernel's own, loaded with PCID 0: no executable page is a
/// user page, and global pages are the same in every address space.
pub(crate) unsafe fn enable() {
    let has_extended = __cpuid(0).eax >= 7;
    let smep = has_extended && __cpuid_count(7, 0).ebx >> 7 & 1 == 1;
    let umip = has_extended && __cpuid_count(7, 0).ecx >> 2 & 1 == 1;
    let mut cr4 = Cr4::read() | Cr4Flags::PAGE_GLOBAL | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, smep);
    cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, umip);
    cr4.set(Cr4Flags::PCID, tlb::features().asids() != 0);
    // SAFETY: the caller vouches for the page tables; no other bit changes.
    unsafe {
        Cr4::write(cr4);
        Efer::write(Efer::read() | EferFlags::NO_EXECUTE_ENABLE);
        // Every long-mode CPU has it, and nothing is mapped with the types that change.
        Msr::new(PAT).write(<X64>::PAT);
    }
    enable_access_prevention();
}
