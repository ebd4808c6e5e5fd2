//! The interrupt descriptor table: one for all CPUs, every vector an interrupt gate (interrupts
//! off on entry) to its stub.

use core::cell::UnsafeCell;

use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use super::trap;
use super::vector::{self, Vector};
use crate::arch::gdt::{KERNEL_CODE, TrapStack};

/// Present, for ring 0, 64-bit interrupt gate: INT instructions of user programs fault.
const INTERRUPT_GATE: u8 = 0x8e;
/// The same for ring 3.
const USER_GATE: u8 = 0xee;

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    segment: u16,
    stack: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    const EMPTY: Gate =
        Gate { offset_low: 0, segment: 0, stack: 0, kind: 0, offset_middle: 0, offset_high: 0, reserved: 0 };

    fn new(vector: Vector) -> Gate {
        let stub = trap::stub(vector);
        let stack = match vector {
            vector::DOUBLE_FAULT => TrapStack::DoubleFault as u8 + 1,
            vector::NMI => TrapStack::Nmi as u8 + 1,
            vector::MACHINE_CHECK => TrapStack::MachineCheck as u8 + 1,
            vector::PAGE_FAULT => TrapStack::PageFault as u8 + 1,
            _ => 0,
        };
        Gate {
            offset_low: stub as u16,
            segment: KERNEL_CODE,
            stack,
            kind: if vector == vector::BREAKPOINT { USER_GATE } else { INTERRUPT_GATE },
            offset_middle: (stub >> 16) as u16,
            offset_high: (stub >> 32) as u32,
            reserved: 0,
        }
    }
}

#[repr(C, align(16))]
struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written by the boot CPU alone, before another CPU runs (`init`).
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([Gate::EMPTY; 256]));

/// Fills the table.
///
/// # Safety
///
/// Called once, by the boot CPU, before any other CPU runs and before [`load`].
pub(crate) unsafe fn init() {
    // SAFETY: no one else can reach the table yet.
    let gates = unsafe { &mut *TABLE.0.get() };
    for (number, gate) in (0..=u8::MAX).zip(gates) {
        *gate = Gate::new(Vector(number));
    }
}

/// Loads the table on the executing CPU.
///
/// # Safety
///
/// [`init`] has run, and this CPU's task state is loaded or about to be: gates name its stacks.
pub(crate) unsafe fn load() {
    let pointer = DescriptorTablePointer {
        limit: (size_of::<[Gate; 256]>() - 1) as u16,
        base: VirtAddr::from_ptr(TABLE.0.get()),
    };
    // SAFETY: the table is static and filled.
    unsafe { lidt(&pointer) };
}
