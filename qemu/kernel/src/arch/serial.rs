//! The first 16550 serial port, polled, and the lock that keeps lines whole.
//!
//! One holder writes one line. A context that interrupts the holder on the same CPU (a fault,
//! an NMI) writes without waiting; the panicking CPU breaks the lock after a bounded wait.

use core::fmt::{self, Write};
use core::hint;
use core::sync::atomic::{AtomicU32, Ordering};

use x86_64::instructions::{interrupts, port::Port};

use crate::panic;
use crate::per_cpu;

const BASE: u16 = 0x3f8;
const LINE_STATUS: u16 = BASE + 5;
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// Turns after which a transmitter that never empties is written to regardless.
const TRANSMIT_TURNS: u32 = 100_000;
/// Turns after which the panicking CPU takes the lock from whoever holds it.
const BREAK_TURNS: u32 = 1_000_000;

const FREE: u32 = u32::MAX;
/// The CPU that writes, or `FREE`.
static HOLDER: AtomicU32 = AtomicU32::new(FREE);

/// 115200 baud, 8 data bits, no parity, one stop bit, FIFOs on, interrupts off.
pub(crate) fn init() {
    for (offset, value) in [(1, 0x00), (3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (2, 0xc7), (4, 0x03)] {
        // SAFETY: the documented set-up of the port's own registers.
        unsafe { Port::<u8>::new(BASE + offset).write(value) };
    }
}

struct Transmitter;

impl Transmitter {
    fn send(byte: u8) {
        for _ in 0..TRANSMIT_TURNS {
            // SAFETY: reading the line status has no side effect that anyone relies on.
            if unsafe { Port::<u8>::new(LINE_STATUS).read() } & TRANSMIT_EMPTY != 0 {
                break;
            }
            hint::spin_loop();
        }
        // SAFETY: the transmit register takes any byte.
        unsafe { Port::<u8>::new(BASE).write(byte) };
    }
}

impl Write for Transmitter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                Transmitter::send(b'\r');
            }
            Transmitter::send(byte);
        }
        Ok(())
    }
}

/// Writes `line` and a line end, as one piece. Interrupts are off meanwhile.
pub(crate) fn write_line(line: fmt::Arguments<'_>) {
    interrupts::without_interrupts(|| {
        let me = per_cpu::current().cpu.index() as u32;
        let nested = acquire(me);
        // The transmitter never fails; a Display that does loses the rest of its own line.
        let _ = Transmitter.write_fmt(format_args!("{line}\n"));
        if !nested {
            // Release pairs with the Acquire in `acquire`: lines are written one after another.
            HOLDER.store(FREE, Ordering::Release);
        }
    });
}

/// Takes the lock; true where this CPU holds it already.
fn acquire(me: u32) -> bool {
    let mut turns = 0;
    loop {
        match HOLDER.compare_exchange_weak(FREE, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return false,
            Err(holder) if holder == me => return true,
            Err(_) => {}
        }
        match panic::panicking_cpu() {
            Some(cpu) if cpu.index() as u32 == me => {
                turns += 1;
                if turns > BREAK_TURNS {
                    HOLDER.store(me, Ordering::Relaxed);
                    return false;
                }
            }
            Some(_) => super::exit::halt_forever(),
            None => {}
        }
        per_cpu::relax();
    }
}
