//! A thread's floating-point and vector registers. The kernel uses none, so they stay in the CPU until
//! another thread runs there.

use core::arch::asm;
use core::fmt;

/// Bytes that FXSAVE stores.
pub(crate) const FLOATING_POINT_BYTES: usize = 512;

/// Where the control word, the control and status register, and the mask of its bits lie.
const CONTROL_WORD: usize = 0;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// What they are at the start of a program.
const INITIAL_CONTROL_WORD: u16 = 0x37f;
const INITIAL_MXCSR: u32 = 0x1f80;
/// The register's bits if the CPU does not say (Intel SDM, volume 1, 11.6.6).
const USUAL_MXCSR_MASK: u32 = 0xffbf;

/// The registers, as FXSAVE stores them.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct FloatingPoint([u8; FLOATING_POINT_BYTES]);

impl FloatingPoint {
    /// What a program starts with.
    pub(crate) fn initial() -> FloatingPoint {
        let mut bytes = [0; FLOATING_POINT_BYTES];
        bytes[CONTROL_WORD..][..2].copy_from_slice(&INITIAL_CONTROL_WORD.to_le_bytes());
        bytes[MXCSR..][..4].copy_from_slice(&INITIAL_MXCSR.to_le_bytes());
        FloatingPoint(bytes)
    }

    /// The registers of `bytes`, which a user program wrote. Bits that the CPU would fault on are cleared;
    /// `known` are registers that it saved, which say what these are.
    pub(crate) fn from_user(mut bytes: [u8; FLOATING_POINT_BYTES], known: &FloatingPoint) -> FloatingPoint {
        let mask = match known.word(MXCSR_MASK) {
            0 => USUAL_MXCSR_MASK,
            mask => mask,
        };
        let mxcsr = FloatingPoint(bytes).word(MXCSR) & mask;
        bytes[MXCSR..][..4].copy_from_slice(&mxcsr.to_le_bytes());
        FloatingPoint(bytes)
    }

    /// The bytes that FXSAVE stored.
    pub(crate) fn bytes(&self) -> &[u8; FLOATING_POINT_BYTES] {
        &self.0
    }

    fn word(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.0[offset..][..4]);
        u32::from_le_bytes(word)
    }

    /// Stores the CPU's registers here.
    pub(super) fn save(&mut self) {
        // SAFETY: it stores 512 bytes at an aligned place; the registers are no compiled code's.
        unsafe { asm!("fxsave64 [{}]", in(reg) self.0.as_mut_ptr(), options(nostack, preserves_flags)) };
    }

    /// Loads the CPU's registers.
    pub(super) fn restore(&self) {
        // SAFETY: the bytes were stored by `save`, or cleared of what faults; no compiled code uses the
        // registers.
        unsafe {
            asm!("fxrstor64 [{}]", in(reg) self.0.as_ptr(), options(nostack, preserves_flags, readonly));
        };
    }
}

impl fmt::Debug for FloatingPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FloatingPoint").field("mxcsr", &self.word(MXCSR)).finish_non_exhaustive()
    }
}
