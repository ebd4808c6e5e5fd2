//! The interrupt vectors, by priority class: what other CPUs wait for comes first.

/// One local APIC interrupt vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vector(pub u8);

impl Vector {
    /// Is it an exception that ends the machine, also where a user program runs?
    pub(crate) fn is_fatal(self) -> bool {
        matches!(self, NMI | DOUBLE_FAULT | MACHINE_CHECK)
    }
}

/// Breakpoint, an exception that user programs raise by an instruction.
pub(crate) const BREAKPOINT: Vector = Vector(3);
/// General protection fault, an exception.
pub(crate) const GENERAL_PROTECTION: Vector = Vector(13);
/// Page fault, an exception.
pub(crate) const PAGE_FAULT: Vector = Vector(14);
/// Non-maskable interrupt, an exception.
pub(crate) const NMI: Vector = Vector(2);
/// Double fault, an exception.
pub(crate) const DOUBLE_FAULT: Vector = Vector(8);
/// Machine check, an exception.
pub(crate) const MACHINE_CHECK: Vector = Vector(18);
/// Where the 8259s are moved to: 16 vectors, all masked. Spurious ones can still come.
pub(crate) const LEGACY: Vector = Vector(0x20);
/// The local APIC's periodic timer.
pub(crate) const TIMER: Vector = Vector(0xe0);
/// Another CPU made a task runnable here.
pub(crate) const RESCHEDULE: Vector = Vector(0xf0);
/// The shootdown queue has something for this CPU.
pub(crate) const SHOOTDOWN: Vector = Vector(0xf1);
/// A bare interrupt, to measure others by.
pub(crate) const MEASURE: Vector = Vector(0xe1);
/// Local APIC errors.
pub(crate) const APIC_ERROR: Vector = Vector(0xfe);
/// Local APIC spurious interrupts; its low four bits are ones, as old APICs want.
pub(crate) const SPURIOUS: Vector = Vector(0xff);
