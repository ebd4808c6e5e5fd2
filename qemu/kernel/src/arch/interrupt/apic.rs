//! The executing CPU's local APIC, through the `x2apic` crate: x2APIC mode where CPUID offers
//! it, else xAPIC.
//!
//! Messages are sent by our own code: `x2apic` 0.5.1 puts a destination into ICR bits 32 and up in
//! both modes, while in xAPIC mode the hardware reads bits 56 to 63; and in x2APIC mode it does not
//! order the write after earlier stores.

use core::fmt;
use core::hint;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use topomem::{CpuId, PhysAddr};
use topomem_boot::{ApicMode, Destination, Icr, LogicalId, Message};
use x2apic::lapic::{
    ErrorFlags, IpiDestMode, LocalApic, LocalApicBuilder, TimerDivide, TimerMode, xapic_base,
};
use x86_64::instructions::interrupts;
use x86_64::registers::model_specific::Msr;

use super::vector;
use crate::arch::{clock, features};
use crate::per_cpu;

/// Between timer interrupts where no sleeper wants one sooner: a bound for what was missed.
const TICK: Duration = Duration::from_millis(100);
/// The soonest that a sleeper is woken by the timer.
const SHORTEST: Duration = Duration::from_micros(100);
/// Turns after which a pending ICR is written to regardless.
const DELIVERY_TURNS: u32 = 1_000_000;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_MASKED: u32 = 1 << 16;
const END_OF_INTERRUPT: u32 = 0xb0;
const DESTINATION_FORMAT: u32 = 0xe0;
const FORMAT_FLAT: u32 = 0xffff_ffff;
const FORMAT_CLUSTER: u32 = 0x0fff_ffff;
const ICR_LOW: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const ICR_PENDING: u32 = 1 << 12;

/// Where the registers are mapped in xAPIC mode; 0 in x2APIC mode. Written once by [`map`],
/// before other CPUs run.
static REGISTERS: AtomicU64 = AtomicU64::new(0);
/// APIC timer ticks per millisecond, divided by 16; written once by [`calibrate_timer`].
static TIMER_PER_MS: AtomicU32 = AtomicU32::new(62_500);
/// How CPUs are addressed together, by [`Logical`]; written once by [`choose_logical`], before
/// other CPUs run.
static LOGICAL: AtomicU8 = AtomicU8::new(Logical::None as u8);

/// How one message reaches several CPUs, but not all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Logical {
    /// Not at all: x2APIC mode, whose clusters are not used here.
    None,
    /// One bit per CPU, up to eight CPUs.
    Flat,
    /// Fifteen clusters of four CPUs: a message reaches CPUs of one cluster.
    Cluster,
}

/// The logical id of `cpu` by itself, if it has one.
pub(crate) fn logical_id(cpu: CpuId) -> Option<LogicalId> {
    let number = u8::try_from(cpu.index()).ok()?;
    let logical = LOGICAL.load(Ordering::Relaxed);
    if logical == Logical::Flat as u8 && number < 8 {
        Some(LogicalId(1 << number))
    } else if logical == Logical::Cluster as u8 && number < 60 {
        Some(LogicalId(((number / 4) << 4) | (1 << (number % 4))))
    } else {
        None
    }
}

/// The logical id that reaches the CPUs of both, where one message can.
pub(crate) fn join(LogicalId(one): LogicalId, LogicalId(other): LogicalId) -> Option<LogicalId> {
    let flat = LOGICAL.load(Ordering::Relaxed) == Logical::Flat as u8;
    (flat || one >> 4 == other >> 4).then_some(LogicalId(one | other))
}

/// The local APIC of one CPU could not be set up: what the crate said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetUpError(pub &'static str);

impl fmt::Display for SetUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local APIC: {}", self.0)
    }
}

/// Is the register page needed, and where does it lie? `None` in x2APIC mode.
pub(crate) fn register_page() -> Option<PhysAddr> {
    // SAFETY: the MSR exists on every CPU with a local APIC.
    (!features::has_x2apic()).then(|| PhysAddr::new(unsafe { xapic_base() }))
}

/// Notes where the register page is mapped.
pub(crate) fn map(registers: u64) {
    REGISTERS.store(registers, Ordering::Relaxed);
}

/// Sets up the executing CPU's local APIC with the timer stopped, and its logical id.
///
/// # Errors
///
/// [`SetUpError`].
pub(crate) fn set_up(cpu: CpuId) -> Result<LocalApic, SetUpError> {
    let mut builder = LocalApicBuilder::new();
    builder
        .timer_vector(usize::from(vector::TIMER.0))
        .error_vector(usize::from(vector::APIC_ERROR.0))
        .spurious_vector(usize::from(vector::SPURIOUS.0))
        .timer_mode(TimerMode::OneShot)
        .timer_divide(TimerDivide::Div16)
        // `enable` starts the timer; an initial count of 0 keeps it stopped.
        .timer_initial(0)
        .ipi_destination_mode(IpiDestMode::Physical)
        .set_xapic_base(REGISTERS.load(Ordering::Relaxed));
    let mut apic = builder.build().map_err(SetUpError)?;
    // SAFETY: the registers are mapped (xAPIC) or MSRs (x2APIC); the vectors have handlers.
    unsafe {
        apic.enable();
        // `enable` leaves the pins unmasked with vector 0.
        write_register(LVT_LINT0, LVT_MASKED);
        write_register(LVT_LINT1, LVT_MASKED);
        if let Some(LogicalId(id)) = logical_id(cpu) {
            let cluster = LOGICAL.load(Ordering::Relaxed) == Logical::Cluster as u8;
            write_register(DESTINATION_FORMAT, if cluster { FORMAT_CLUSTER } else { FORMAT_FLAT });
            apic.set_logical_id(u32::from(id) << 24);
        }
    }
    Ok(apic)
}

/// How the local APICs are driven.
pub(crate) fn mode() -> ApicMode {
    if Registers::mapped().is_none() { ApicMode::X2Apic } else { ApicMode::XApic }
}

/// The mapped page of registers of xAPIC mode.
#[derive(Debug, Clone, Copy)]
struct Registers(NonZeroU64);

impl Registers {
    /// Returns the page, in xAPIC mode.
    #[inline]
    fn mapped() -> Option<Registers> {
        NonZeroU64::new(REGISTERS.load(Ordering::Relaxed)).map(Registers)
    }

    /// Where the register at `offset` is.
    #[inline]
    fn at(self, offset: u32) -> *mut u32 {
        core::ptr::with_exposed_provenance_mut((self.0.get() + u64::from(offset)) as usize)
    }

    /// # Safety
    ///
    /// `offset` names a register whose write with `value` does no harm.
    #[inline]
    unsafe fn write(self, offset: u32, value: u32) {
        // SAFETY: the page is mapped; the caller vouches.
        unsafe { self.at(offset).write_volatile(value) };
    }

    /// Waits, bounded, until the last message has left.
    #[inline]
    fn wait_for_delivery(self) {
        let low = self.at(ICR_LOW).cast_const();
        for _ in 0..DELIVERY_TURNS {
            // SAFETY: the page is mapped, and reading the register has no side effect.
            if unsafe { low.read_volatile() } & ICR_PENDING == 0 {
                return;
            }
            hint::spin_loop();
        }
    }
}

/// # Safety
///
/// `offset` names a register whose write with `value` does no harm.
#[inline]
unsafe fn write_register(offset: u32, value: u32) {
    match Registers::mapped() {
        // SAFETY: x2APIC registers are MSRs, one per 16 bytes of the page; the caller vouches.
        None => unsafe { Msr::new(0x800 + (offset >> 4)).write(u64::from(value)) },
        // SAFETY: the caller vouches.
        Some(registers) => unsafe { registers.write(offset, value) },
    }
}

/// Chooses how messages reach several of `cpus` CPUs. Called before any local APIC is set up.
pub(crate) fn choose_logical(cpus: usize) {
    let logical = match cpus {
        _ if mode() == ApicMode::X2Apic => Logical::None,
        0..=8 => Logical::Flat,
        _ => Logical::Cluster,
    };
    LOGICAL.store(logical as u8, Ordering::Relaxed);
}

fn with<R>(f: impl FnOnce(&mut LocalApic) -> R) -> Option<R> {
    interrupts::without_interrupts(|| {
        // SAFETY: interrupts are off, so no other context of this CPU comes between, save an
        // NMI; that handler uses the APIC only when it will never return (panic).
        unsafe { (*per_cpu::current().apic.get()).as_mut() }.map(f)
    })
}

/// Measures the timer, and with it the TSC, on the boot CPU; false where the PIT is silent.
pub(crate) fn calibrate_timer() -> bool {
    let measured = with(|apic| {
        // SAFETY: the timer's interrupt is masked while it runs freely.
        unsafe {
            apic.disable_timer();
            apic.set_timer_initial(u32::MAX);
            let measured = clock::calibrate(|| apic.timer_current());
            apic.set_timer_initial(0);
            measured
        }
    });
    match measured.flatten() {
        Some(per_ms) => {
            TIMER_PER_MS.store(per_ms.max(1), Ordering::Relaxed);
            true
        }
        None => false,
    }
}

/// Starts the executing CPU's timer, which is one-shot: its handler calls [`next_tick`].
pub(crate) fn start_timer() {
    // SAFETY: the vector has a handler.
    with(|apic| unsafe { apic.enable_timer() });
    next_tick();
}

/// Makes the timer fire after the usual period.
pub(crate) fn next_tick() {
    set_timer(TICK);
}

/// Makes the timer fire within `time`, if that is sooner than the usual period.
///
/// Never periodic: QEMU's main loop drowns in a period of microseconds, and takes the whole
/// machine with it.
pub(crate) fn tick_within(time: Duration) {
    if time < TICK {
        set_timer(time.max(SHORTEST));
    }
}

fn set_timer(time: Duration) {
    // SAFETY: only the time of the next interrupt changes.
    with(|apic| unsafe { apic.set_timer_initial(timer_count(time)) });
}

fn timer_count(time: Duration) -> u32 {
    let per_ms = u128::from(TIMER_PER_MS.load(Ordering::Relaxed));
    u32::try_from(per_ms * time.as_micros() / 1000).unwrap_or(u32::MAX)
}

/// Ends the interrupt in service.
#[inline]
pub(crate) fn end_of_interrupt() {
    // SAFETY: called by the handler of the interrupt in service. It is one write, so nothing comes in between.
    unsafe { write_register(END_OF_INTERRUPT, 0) };
}

/// The errors noted since the last reading.
pub(crate) fn error_flags() -> Option<ErrorFlags> {
    // SAFETY: reading the error register has no side effect that anyone relies on.
    with(|apic| unsafe { apic.error_flags() })
}

/// Sends `message`; everything this CPU wrote before is visible to a target that handles it.
///
/// One ICR write. In xAPIC mode it waits, bounded, until the last message has left; the store to the
/// uncached register is ordered after earlier ones.
// Always: a caller says what it sends and which way, which leaves little of it.
#[inline(always)]
pub(crate) fn send(message: Message, to: Destination) {
    let Some(registers) = Registers::mapped() else {
        let icr = Icr::new(ApicMode::X2Apic, message, to);
        // SAFETY: vectors have handlers; INIT, start-up and NMI are sent by the code that starts
        // CPUs and by the one that stops them.
        return unsafe { icr.write_msr() };
    };
    let icr = Icr::new(ApicMode::XApic, message, to);
    if to == Destination::Others {
        // The shorthand needs no destination, so it is one write, and a handler of this CPU may come
        // in between with its own (Linux's `__default_send_IPI_shortcut` relies on the same).
        registers.wait_for_delivery();
        // SAFETY: as above.
        return unsafe { registers.write(ICR_LOW, icr.low()) };
    }
    // Two writes: no handler of this CPU may come between with its own.
    interrupts::without_interrupts(|| {
        registers.wait_for_delivery();
        // SAFETY: as above.
        unsafe {
            registers.write(ICR_HIGH, icr.high());
            registers.write(ICR_LOW, icr.low());
        }
    });
}
