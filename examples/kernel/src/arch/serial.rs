//! The first serial port, and the end of the run.

use core::fmt::{self, Write};

use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

use crate::lock::Lock;

/// The port.
struct Serial;

static SERIAL: Lock<Serial> = Lock::new(Serial);

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the port sends bytes, and QEMU's takes each at once.
            unsafe { Port::<u8>::new(0x3f8).write(byte) };
        }
        Ok(())
    }
}

/// Writes a line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    // The port takes everything.
    let _ = SERIAL.with(|serial| serial.write_fmt(format_args!("{text}\n")));
}

/// Writes a line to the serial port.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::arch::serial::line(format_args!($($text)*)) };
}

/// How the run went.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// QEMU's status is 33.
    Success = 0x10,
    /// 35.
    Failure = 0x11,
}

/// Ends the run, by QEMU's isa-debug-exit.
pub(crate) fn exit(outcome: Outcome) -> ! {
    // SAFETY: the port belongs to isa-debug-exit, or to nothing.
    unsafe { Port::new(0xf4).write(outcome as u32) };
    loop {
        interrupts::disable();
        hlt();
    }
}
