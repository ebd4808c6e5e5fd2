//! Exceptions nobody handles: what, where, the registers, how it got there.

use core::fmt;

use super::backtrace::Backtrace;
use super::{Claim, claim, finish};
use crate::arch::exit::{self, Outcome};
use crate::arch::interrupt::trap::TrapFrame;
use crate::log::Json;
use crate::{log, per_cpu, record};

const NAMES: [&str; 32] = [
    "divide error",
    "debug",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack segment fault",
    "general protection fault",
    "page fault",
    "reserved",
    "x87 floating point",
    "alignment check",
    "machine check",
    "SIMD floating point",
    "virtualisation",
    "control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "hypervisor injection",
    "VMM communication",
    "security",
    "reserved",
];

/// Reports the exception in `frame` (with the faulting address of a page fault) and ends the
/// run. A CPU that finds another reporting halts.
pub(crate) fn exception(frame: &TrapFrame, fault_addr: Option<u64>) -> ! {
    if claim() == Claim::Again {
        exit::exit(Outcome::Panic);
    }
    let name = NAMES.get(frame.vector as usize).copied().unwrap_or("unknown");
    let cpu = per_cpu::current().cpu;
    log!("{name}{}, error code {:#x}{}", On(fault_addr), frame.error, Access(frame, fault_addr));
    crate::arch::serial::write_line(format_args!("{frame}"));
    let on = On(fault_addr);
    record!(
        "{{\"t\":\"panic\",\"message\":{},\"location\":\"{:#x}\",\"cpu\":{}}}",
        Json(format_args!("{name}{on}, error code {:#x}", frame.error)),
        frame.rip,
        cpu.index()
    );
    Backtrace::interrupted(frame).report();
    finish()
}

/// The faulting address, if there is one.
struct On(Option<u64>);

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => write!(f, " on {addr:#x}"),
            None => Ok(()),
        }
    }
}

/// What a page fault's error code says.
struct Access<'a>(&'a TrapFrame, Option<u64>);

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_none() {
            return Ok(());
        }
        let error = self.0.error;
        let access = match (error & 16 != 0, error & 2 != 0) {
            (true, _) => "execute",
            (false, true) => "write",
            (false, false) => "read",
        };
        let cause = if error & 1 == 0 { "not present" } else { "protection" };
        write!(f, ": {access}, {cause}")
    }
}
