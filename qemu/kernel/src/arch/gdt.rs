//! Segments and the task state of one CPU.

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{Ordering, compiler_fence};

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lgdt, load_tss};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// A trap that gets a stack of its own, by its slot in the interrupt stack table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrapStack {
    /// The kernel stack may be what broke.
    DoubleFault = 0,
    /// Comes at any instruction.
    Nmi = 1,
    /// Comes at any instruction.
    MachineCheck = 2,
    /// A stack that ran into its guard page cannot take the fault's own frame.
    PageFault = 3,
}

impl TrapStack {
    /// All of them, in slot order.
    pub(crate) const ALL: [TrapStack; 4] =
        [TrapStack::DoubleFault, TrapStack::Nmi, TrapStack::MachineCheck, TrapStack::PageFault];
}

/// The kernel's code segment; its data segment is the next, as SYSCALL demands.
pub(crate) const KERNEL_CODE: u16 = 0x08;
/// User programs' data segment, with their privilege level.
pub(crate) const USER_DATA: u16 = 0x18 | 3;
/// User programs' code segment, with their privilege level.
pub(crate) const USER_CODE: u16 = 0x20 | 3;

/// How far [`Segments::enter_page_fault`] moves the page-fault stack: a fault inside the handler (a probe
/// in a backtrace, say) starts below the frames of the first.
const NESTED_PAGE_FAULT: u64 = 8 * 1024;

/// One CPU's descriptor table and task state. They stay where they are once loaded.
#[derive(Debug)]
pub(crate) struct Segments {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
}

impl Segments {
    /// Where in it the CPU finds the stack for traps from user programs (RSP0).
    pub(crate) const TRAP_STACK_OFFSET: usize =
        offset_of!(Segments, tss) + offset_of!(TaskStateSegment, privilege_stack_table);

    /// Where in it the CPU finds the stack for page faults.
    pub(crate) const PAGE_FAULT_STACK_OFFSET: usize = offset_of!(Segments, tss)
        + offset_of!(TaskStateSegment, interrupt_stack_table)
        + TrapStack::PageFault as usize * size_of::<u64>();

    /// An empty table, nothing loaded.
    pub(crate) const fn new() -> Segments {
        Segments { gdt: GlobalDescriptorTable::new(), tss: TaskStateSegment::new() }
    }

    /// Fills the tables and loads them on the executing CPU.
    ///
    /// # Safety
    ///
    /// `this` belongs to the executing CPU, is not loaded yet, stays in place for good, and
    /// each of `stacks` is the top of a mapped stack that nothing else uses.
    pub(crate) unsafe fn load(this: *mut Segments, stacks: [VirtAddr; TrapStack::ALL.len()]) {
        // SAFETY: the caller vouches for exclusive use; selectors are loaded right after the
        // table that defines them, and the TSS never moves.
        unsafe {
            let segments = &mut *this;
            for stack in TrapStack::ALL {
                segments.tss.interrupt_stack_table[stack as usize] = stacks[stack as usize];
            }
            let code = segments.gdt.append(Descriptor::kernel_code_segment());
            segments.gdt.append(Descriptor::kernel_data_segment());
            // In the order that SYSRET demands.
            segments.gdt.append(Descriptor::user_data_segment());
            segments.gdt.append(Descriptor::user_code_segment());
            let tss = segments.gdt.append(Descriptor::tss_segment_unchecked(ptr::addr_of!((*this).tss)));
            // Not the crate's `load`: its addresses end at 48 bits.
            let gdt = &*ptr::addr_of!((*this).gdt);
            let base = VirtAddr::new_unsafe(gdt.entries().as_ptr() as u64);
            lgdt(&DescriptorTablePointer { limit: gdt.limit(), base });
            CS::set_reg(code);
            for set in [SS::set_reg, DS::set_reg, ES::set_reg] {
                set(SegmentSelector::NULL);
            }
            load_tss(tss);
        }
    }

    /// Moves the page-fault stack down for the time of a handler.
    ///
    /// # Safety
    ///
    /// Called on the CPU that loaded `this`, in its page-fault handler, before anything that
    /// can fault; undone by [`leave_page_fault`](Segments::leave_page_fault).
    pub(crate) unsafe fn enter_page_fault(this: *mut Segments) {
        // SAFETY: as the caller vouches.
        unsafe { Segments::shift_page_fault(this, NESTED_PAGE_FAULT.wrapping_neg()) };
    }

    /// Ends what [`enter_page_fault`](Segments::enter_page_fault) began.
    ///
    /// # Safety
    ///
    /// As there, and nothing that can fault follows in the handler.
    pub(crate) unsafe fn leave_page_fault(this: *mut Segments) {
        // SAFETY: as the caller vouches.
        unsafe { Segments::shift_page_fault(this, NESTED_PAGE_FAULT) };
    }

    /// # Safety
    ///
    /// Called on the CPU that loaded `this`, in its page-fault handler.
    unsafe fn shift_page_fault(this: *mut Segments, by: u64) {
        // The CPU reads the slot at the next fault: the fence keeps the compiler from moving
        // an access that may fault across the change.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: only this CPU's page-fault entries touch the slot, one nested in the other.
        // The task state is packed to 4 bytes, so the slot may be unaligned.
        unsafe {
            let table = ptr::addr_of_mut!((*this).tss.interrupt_stack_table).cast::<u64>();
            let slot = table.add(TrapStack::PageFault as usize);
            slot.write_unaligned(slot.read_unaligned().wrapping_add(by));
        }
        compiler_fence(Ordering::SeqCst);
    }

    /// Points the page-fault stack at nothing, so that the next page fault becomes a double one.
    ///
    /// # Safety
    ///
    /// Called on the CPU that loaded `this`, which is about to crash on purpose.
    pub(crate) unsafe fn forget_page_fault_stack(this: *mut Segments) {
        // SAFETY: as above; the task state is packed.
        unsafe {
            let table = ptr::addr_of_mut!((*this).tss.interrupt_stack_table).cast::<u64>();
            table.add(TrapStack::PageFault as usize).write_unaligned(0);
        }
        compiler_fence(Ordering::SeqCst);
    }
}
