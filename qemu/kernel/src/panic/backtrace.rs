//! Backtraces by frame pointer, bounded and checked: a broken chain ends the walk.

use core::arch::asm;
use core::fmt;

use crate::arch::interrupt::trap::TrapFrame;
use crate::arch::probe;
use crate::{log, record};

/// The longest backtrace.
const MAX_FRAMES: usize = 32;
/// Addresses below are not the kernel's.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// Return addresses, innermost first.
#[derive(Debug)]
pub(crate) struct Backtrace {
    addresses: [u64; MAX_FRAMES],
    len: usize,
}

impl Backtrace {
    /// How the caller got here.
    #[inline(never)]
    pub(crate) fn here() -> Backtrace {
        let frame_pointer: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack, preserves_flags)) };
        let mut backtrace = Backtrace { addresses: [0; MAX_FRAMES], len: 0 };
        backtrace.walk(frame_pointer);
        backtrace
    }

    /// How the interrupted context got where it was.
    pub(crate) fn interrupted(frame: &TrapFrame) -> Backtrace {
        let mut backtrace = Backtrace { addresses: [0; MAX_FRAMES], len: 0 };
        backtrace.push(frame.rip);
        backtrace.walk(frame.rbp);
        backtrace
    }

    /// A backtrace of these return addresses, innermost first.
    #[cfg(feature = "hardening")]
    pub(crate) fn of(addresses: impl Iterator<Item = u64>) -> Backtrace {
        let mut backtrace = Backtrace { addresses: [0; MAX_FRAMES], len: 0 };
        addresses.for_each(|address| backtrace.push(address));
        backtrace
    }

    /// The return addresses.
    #[cfg(feature = "hardening")]
    pub(crate) fn addresses(&self) -> &[u64] {
        &self.addresses[..self.len]
    }

    fn push(&mut self, address: u64) {
        if let Some(slot) = self.addresses.get_mut(self.len) {
            *slot = address;
            self.len += 1;
        }
    }

    /// Each frame pointer points at the caller's, the return address above it. Stacks grow
    /// down, so the chain must climb; reads that fault end it.
    fn walk(&mut self, mut frame_pointer: u64) {
        while self.len < MAX_FRAMES && frame_pointer >= KERNEL_HALF && frame_pointer.is_multiple_of(8) {
            let (Ok(next), Ok(address)) = (probe::load(frame_pointer), probe::load(frame_pointer + 8)) else {
                return;
            };
            if address < KERNEL_HALF {
                return;
            }
            self.push(address);
            if next <= frame_pointer {
                return;
            }
            frame_pointer = next;
        }
    }

    /// Gives the runner a leak, and the addresses to find the function in that allocated the memory.
    #[cfg(feature = "hardening")]
    pub(crate) fn report_leak(&self, bytes: u64) {
        record!("{{\"t\":\"leak\",\"bytes\":{bytes},\"addresses\":[{}]}}", Addresses(self));
    }

    /// Prints it, and gives the runner the addresses to name.
    pub(crate) fn report(&self) {
        log!("backtrace:");
        for address in &self.addresses[..self.len] {
            log!("  {address:#018x}");
        }
        record!("{{\"t\":\"frames\",\"addresses\":[{}]}}", Addresses(self));
    }
}

/// The addresses as a JSON array's elements.
struct Addresses<'a>(&'a Backtrace);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.addresses[..self.0.len].iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}\"{address:#x}\"")?;
        }
        Ok(())
    }
}
