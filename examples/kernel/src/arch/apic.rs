//! The executing CPU's local APIC, through the `x2apic` crate.
//!
//! `x2apic` 0.5.1 puts a destination into ICR bits 32 and up in both modes, but xAPIC mode reads bits 56 to 63:
//! the destination is shifted before the call.

use x2apic::lapic::{LocalApic, LocalApicBuilder, TimerDivide, TimerMode, xapic_base};
use x86_64::instructions::interrupts;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use super::cpu;
use super::interrupts::{APIC_ERROR, OLD_CONTROLLERS, SPURIOUS, TIMER};
use crate::machine::at;

const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
/// Timer ticks between preemptions: about 1 ms with the 1 GHz of QEMU's timer, divided by 16.
const PERIOD: u32 = 62_500;

/// Sets up the executing CPU's local APIC, with the timer stopped. The tables map its registers to themselves.
pub(crate) fn set_up() {
    let mut builder = LocalApicBuilder::new();
    builder.timer_vector(TIMER.into()).error_vector(APIC_ERROR.into()).spurious_vector(SPURIOUS.into());
    // An initial count of 0 keeps the timer stopped.
    builder.timer_mode(TimerMode::OneShot).timer_divide(TimerDivide::Div16).timer_initial(0);
    if !has_x2apic() {
        // SAFETY: the CPU has a local APIC.
        builder.set_xapic_base(unsafe { xapic_base() });
    }
    let mut apic = crate::must("local APIC", builder.build());
    // SAFETY: the registers are mapped, and the vectors have handlers; interrupts are off.
    unsafe {
        apic.enable();
        // `enable` leaves the two pins unmasked.
        mask(LVT_LINT0);
        mask(LVT_LINT1);
        *cpu::this().apic.get() = Some(apic);
    }
}

/// Masks an entry of the local vector table.
///
/// # Safety
///
/// `register` is the offset of such an entry.
unsafe fn mask(register: u32) {
    const MASKED: u32 = 1 << 16;
    // SAFETY: the register is an MSR in x2APIC mode, else memory that is mapped to itself.
    unsafe {
        if has_x2apic() {
            Msr::new(0x800 + (register >> 4)).write(MASKED.into());
        } else {
            at::<u32>(xapic_base() + u64::from(register)).write_volatile(MASKED);
        }
    }
}

/// Silences the two old interrupt controllers: what they may still send has a handler.
///
/// # Safety
///
/// Called by the boot CPU, with interrupts off.
pub(crate) unsafe fn silence_old_controllers() {
    for (port, vector, wiring) in [(0x20, OLD_CONTROLLERS, 4), (0xa0, OLD_CONTROLLERS + 8, 2)] {
        let (mut command, mut data) = (Port::<u8>::new(port), Port::<u8>::new(port + 1));
        // SAFETY: the four words that initialise an 8259A, and the mask of all its lines.
        unsafe {
            command.write(0x11);
            [vector, wiring, 1, 0xff].into_iter().for_each(|word| data.write(word));
        }
    }
}

fn with<R>(f: impl FnOnce(&mut LocalApic) -> R) -> R {
    interrupts::without_interrupts(|| {
        // SAFETY: with interrupts off no other context of this CPU uses it.
        let apic = unsafe { &mut *cpu::this().apic.get() };
        match apic {
            Some(apic) => f(apic),
            None => panic!("no local APIC"),
        }
    })
}

fn has_x2apic() -> bool {
    core::arch::x86_64::__cpuid(1).ecx & 1 << 21 != 0
}

fn destination(apic_id: u32) -> u32 {
    if has_x2apic() { apic_id } else { apic_id << 24 }
}

/// Has the timer interrupt once, after the period.
pub(crate) fn start_timer() {
    // SAFETY: the vector has a handler.
    with(|apic| unsafe { apic.set_timer_initial(PERIOD) });
}

pub(crate) fn end_of_interrupt() {
    // SAFETY: called by the handler of the interrupt in service.
    with(|apic| unsafe { apic.end_of_interrupt() });
}

/// Interrupts another CPU, by its number.
#[allow(dead_code, reason = "not every tier needs it")]
pub(crate) fn send(vector: u8, index: usize) {
    // SAFETY: the vector has a handler.
    with(|apic| unsafe { apic.send_ipi(vector, destination(cpu::apic_id_of(index))) });
}

pub(crate) fn send_init(apic_id: u32) {
    // SAFETY: sent to a CPU that does not run yet.
    with(|apic| unsafe { apic.send_init_ipi(destination(apic_id)) });
}

pub(crate) fn send_start_up(apic_id: u32, page: u8) {
    // SAFETY: as for `send_init`; the trampoline is in the page.
    with(|apic| unsafe { apic.send_sipi(page, destination(apic_id)) });
}
