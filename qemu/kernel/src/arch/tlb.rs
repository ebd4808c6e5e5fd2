//! The TLB's instructions, by what the CPUs have: plain ones, or PCIDs, INVPCID and INVLPGB.
//!
//! QEMU's TCG has none of the latter three, so that only the plain ones have been run; what the queue
//! does with the others is tested on simulated machines.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use topomem::{Asid, PageRange, PageSize, PhysFrame, RootLoad, TlbFeatures, VirtAddr};
use topomem_boot::layout::InvpcidOperand;
use x86_64::instructions::interrupts;
use x86_64::instructions::tlb::Pcid;
use x86_64::registers::control::{Cr3, Cr3Flags, Cr4, Cr4Flags};
use x86_64::structures::paging;

use super::paging::LEVELS;

/// What the kernel uses: [`TlbFeatures::to_bits`]. Written by the boot CPU before there are others.
static FEATURES: AtomicU32 = AtomicU32::new(0);

/// What the kernel uses.
#[inline]
pub(crate) fn features() -> TlbFeatures {
    TlbFeatures::from_bits(FEATURES.load(Ordering::Relaxed))
}

/// Decides what to use of what the boot CPU has; all CPUs of a machine have the same. `most` is
/// the last that may be used (`none`, `pcid`, `invpcid`; each includes those before it).
pub(crate) fn choose(most: Option<&str>) {
    let found = TlbFeatures::of_this_cpu();
    let tagged = TlbFeatures::NONE.with_asids(found.asids());
    let selective = if found.is_selective() { tagged.with_selective() } else { tagged };
    let chosen = match most {
        Some("none") => TlbFeatures::NONE,
        Some("pcid") => tagged,
        Some("invpcid") => selective,
        _ => found,
    };
    FEATURES.store(chosen.to_bits(), Ordering::Relaxed);
}

/// Drops one page of the current PCID, or a global one.
#[inline]
pub(crate) fn flush_page(page: VirtAddr) {
    // Not the x86_64 crate's `flush`: its addresses end at 48 bits.
    // SAFETY: forgetting a translation changes no memory.
    unsafe { asm!("invlpg [{}]", in(reg) page.as_u64(), options(nostack, preserves_flags)) };
}

/// Drops what the current PCID has.
pub(crate) fn flush_non_global() {
    let (root, pcid) = Cr3::read_raw();
    // SAFETY: the same root. Bit 63 is clear: with PCIDs that drops those of this one, without them
    // all that is not global.
    unsafe { Cr3::write_raw(root, pcid) };
}

/// Drops everything, of all PCIDs.
pub(crate) fn flush_all() {
    if features().is_selective() {
        return invpcid(ALL_AND_GLOBAL, &InvpcidOperand { pcid: 0, address: 0 });
    }
    interrupts::without_interrupts(|| {
        let flags = Cr4::read();
        // SAFETY: global pages are off for two instructions, which drops every translation.
        unsafe {
            Cr4::write(flags - Cr4Flags::PAGE_GLOBAL);
            Cr4::write(flags);
        }
    });
}

/// Drops one page of `asid`; the CPU has INVPCID. An address that is not canonical has no translation,
/// and the instruction would fault on it.
pub(crate) fn flush_page_of(asid: Asid, page: VirtAddr) {
    if let Some(operand) = InvpcidOperand::page(LEVELS, asid.get(), page) {
        invpcid(ONE_ADDRESS, &operand);
    }
}

// INVPCID's types (Intel SDM, volume 2).
const ONE_ADDRESS: u64 = 0;
const ALL_AND_GLOBAL: u64 = 2;

fn invpcid(kind: u64, operand: &InvpcidOperand) {
    // SAFETY: it only drops translations; the caller asks only where the CPU has it.
    unsafe {
        asm!("invpcid {}, [{}]", in(reg) kind, in(reg) operand, options(nostack, preserves_flags));
    }
}

/// Returns the root of the tables that the CPU translates through.
pub(crate) fn root() -> PhysFrame {
    Cr3::read().0.into()
}

/// Loads `root` as `load` says.
///
/// # Safety
///
/// The tables map what the executing code and its stack need.
pub(crate) unsafe fn load_root(root: PhysFrame, load: RootLoad) {
    // CR3 holds no more bits.
    let root = x86_64::PhysAddr::new_truncate(root.start_address().as_u64());
    let root = paging::PhysFrame::containing_address(root);
    // SAFETY: the caller's promise; a PCID is named only where CR4.PCIDE is set.
    unsafe {
        match load {
            RootLoad::Untagged => Cr3::write(root, Cr3Flags::empty()),
            RootLoad::Flush(asid) => Cr3::write_raw(root, asid.get()),
            RootLoad::Keep(asid) => match Pcid::new(asid.get()) {
                Ok(pcid) => Cr3::write_pcid_no_flush(root, pcid),
                // There are no more than a few.
                Err(_) => Cr3::write_raw(root, asid.get()),
            },
        }
    }
}

// INVLPGB's operands (AMD APM, volume 3): flags and address in RAX, pages beyond the first and the
// stride in ECX, ASID (of guests; ours is 0) and PCID in EDX.
const BY_ADDRESS: u64 = 1 << 0;
/// Without it guests' translations go, too.
const OF_ONE_GUEST: u64 = 1 << 2;
const GLOBAL_TOO: u64 = 1 << 3;
const STRIDE_2M: u32 = 1 << 31;

fn invlpgb(rax: u64, ecx: u32) {
    // SAFETY: it only drops translations; the caller asks only where the CPU has it.
    unsafe {
        asm!("invlpgb", in("rax") rax, in("ecx") ecx, in("edx") 0, options(nostack, preserves_flags));
    }
}

/// Begins to drop `range`, no longer than one instruction takes, of all PCIDs on all CPUs.
pub(crate) fn broadcast_pages(range: PageRange) {
    let stride = if range.size() == PageSize::Size2MiB { STRIDE_2M } else { 0 };
    // A page that is not canonical has no translation.
    if !LEVELS.is_canonical(range.start().as_u64()) {
        return;
    }
    let Ok(more) = u16::try_from(range.pages().saturating_sub(1)) else { return broadcast_all() };
    invlpgb(range.start().as_u64() | BY_ADDRESS | OF_ONE_GUEST | GLOBAL_TOO, u32::from(more) | stride);
}

/// Begins to drop everything on all CPUs.
pub(crate) fn broadcast_all() {
    invlpgb(OF_ONE_GUEST | GLOBAL_TOO, 0);
}

/// Waits for what this CPU began to drop.
pub(crate) fn broadcast_sync() {
    // SAFETY: it only waits; the caller asks only where the CPU has it.
    unsafe { asm!("tlbsync", options(nostack, preserves_flags)) };
}
