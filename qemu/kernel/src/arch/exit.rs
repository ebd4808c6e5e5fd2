//! Leaving QEMU through `isa-debug-exit` (`iobase=0xf4`): the status is twice the value plus one.

use x86_64::instructions::{hlt, interrupts, port::Port};

/// How the run went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything held; QEMU's status is 33.
    Success,
    /// The scenario found failures, or could not run; 35.
    Failures,
    /// The kernel panicked; 37.
    Panic,
}

/// Ends the run, and halts this CPU for good where nothing answers at the port.
pub(crate) fn exit(outcome: Outcome) -> ! {
    let value: u32 = match outcome {
        Outcome::Success => 0x10,
        Outcome::Failures => 0x11,
        Outcome::Panic => 0x12,
    };
    // SAFETY: the port belongs to isa-debug-exit, and to nothing on machines without it.
    unsafe { Port::new(0xf4).write(value) };
    halt_forever()
}

/// Stops this CPU with interrupts off; only an NMI still reaches it.
pub(crate) fn halt_forever() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}
