//! A user thread's registers, and running it.

use core::ptr;

use x86_64::registers::model_specific::Msr;
use x86_64::registers::rflags::RFlags;

use super::entry::{SYSTEM_CALL, enter_user};
use super::{FloatingPoint, USER_END};
use crate::arch::gdt::{USER_CODE, USER_DATA};
use crate::arch::interrupt::trap::TrapFrame;
use crate::arch::interrupt::vector::{self, Vector};
use crate::per_cpu;

const FS_BASE: u32 = 0xc000_0100;
/// What SWAPGS exchanges with the GS base: the user's while the kernel runs.
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// The flags that a user program may change.
const USER_FLAGS: RFlags = RFlags::CARRY_FLAG
    .union(RFlags::PARITY_FLAG)
    .union(RFlags::AUXILIARY_CARRY_FLAG)
    .union(RFlags::ZERO_FLAG)
    .union(RFlags::SIGN_FLAG)
    .union(RFlags::TRAP_FLAG)
    .union(RFlags::DIRECTION_FLAG)
    .union(RFlags::OVERFLOW_FLAG)
    .union(RFlags::RESUME_FLAG)
    .union(RFlags::ALIGNMENT_CHECK)
    .union(RFlags::ID);
/// Bit 1 of the flags is always set.
const FIXED_FLAGS: u64 = 2;

/// Why a thread left user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It made a system call.
    SystemCall,
    /// It raised an exception.
    Exception {
        /// Which.
        vector: Vector,
        /// The error code, if it has one.
        error: u64,
        /// The address of a page fault.
        address: u64,
    },
    /// The CPU was interrupted.
    Interrupt,
}

/// The registers of a user thread. It stays in place while a CPU has it loaded: from [`enter`] until
/// [`UserState::unload`].
#[derive(Debug)]
#[repr(C)]
pub(crate) struct UserState {
    /// The general registers.
    pub frame: TrapFrame,
    floating_point: FloatingPoint,
    fs_base: u64,
    gs_base: u64,
}

impl UserState {
    /// A thread that begins at `entry`, with its stack pointer at `stack`.
    pub(crate) fn new(entry: u64, stack: u64) -> UserState {
        let frame = TrapFrame { rip: entry, rsp: stack, ..TrapFrame::default() };
        UserState { frame, floating_point: FloatingPoint::initial(), fs_base: 0, gs_base: 0 }
    }

    /// The same registers, for a thread of its own. What the CPU has of this thread is saved first.
    pub(crate) fn copy(&mut self) -> UserState {
        self.unload();
        let UserState { frame, floating_point, fs_base, gs_base } = *self;
        UserState { frame, floating_point, fs_base, gs_base }
    }

    fn is_loaded(&self) -> bool {
        ptr::eq(per_cpu::current().user.loaded.get(), self)
    }

    /// Has the executing CPU keep nothing of this thread. Called on the CPU where it ran last, before it
    /// runs on another or goes.
    pub(crate) fn unload(&mut self) {
        if self.is_loaded() {
            self.floating_point.save();
            per_cpu::current().user.loaded.set(ptr::null_mut());
        }
    }

    /// The floating-point registers, for a change or to be kept.
    pub(crate) fn floating_point(&mut self) -> &mut FloatingPoint {
        self.unload();
        &mut self.floating_point
    }

    /// The base of FS.
    pub(crate) fn fs_base(&self) -> u64 {
        self.fs_base
    }

    /// The base of GS.
    pub(crate) fn gs_base(&self) -> u64 {
        self.gs_base
    }

    /// Sets the base of FS; false if it is no user's address.
    pub(crate) fn set_fs_base(&mut self, base: u64) -> bool {
        if base < USER_END {
            self.unload();
            self.fs_base = base;
        }
        base < USER_END
    }

    /// Sets the base of GS; false if it is no user's address.
    pub(crate) fn set_gs_base(&mut self, base: u64) -> bool {
        if base < USER_END {
            self.unload();
            self.gs_base = base;
        }
        base < USER_END
    }

    /// Has all registers restored when the thread runs again: after a system call RCX and R11 are not.
    pub(crate) fn restore_all(&mut self) {
        self.frame.vector = 0;
    }

    /// Loads into the CPU what [`enter_user`] does not.
    ///
    /// # Safety
    ///
    /// The state stays in place until `unload`.
    unsafe fn load(&mut self) {
        let user = &per_cpu::current().user;
        let loaded = user.loaded.replace(self);
        if ptr::eq(loaded, self) {
            return;
        }
        // SAFETY: a loaded state stays in place until it is unloaded, and its thread does not run.
        if let Some(other) = unsafe { loaded.as_mut() } {
            other.floating_point.save();
        }
        self.floating_point.restore();
        // SAFETY: the bases are a user's addresses, and the kernel uses neither register as it is now.
        unsafe {
            Msr::new(FS_BASE).write(self.fs_base);
            Msr::new(KERNEL_GS_BASE).write(self.gs_base);
        }
    }
}

/// Runs the thread of `state` until it traps. Interrupts are off before and after; an interrupt has been
/// handled.
///
/// # Safety
///
/// - Interrupts are off, and the executing CPU's page tables are the thread's program's.
/// - The state stays in place until it is unloaded, and no other CPU has it loaded.
pub(crate) unsafe fn enter(state: &mut UserState) -> Exit {
    let frame = &mut state.frame;
    if frame.rip >= USER_END {
        // The instructions that enter user mode would fault, not the program. Linux says so of it:
        return Exit::Exception { vector: vector::GENERAL_PROTECTION, error: 0, address: 0 };
    }
    frame.cs = u64::from(USER_CODE);
    frame.ss = u64::from(USER_DATA);
    frame.rflags = frame.rflags & USER_FLAGS.bits() | RFlags::INTERRUPT_FLAG.bits() | FIXED_FLAGS;
    // SAFETY: RIP is checked, selectors and flags are set above, the rest is the caller's promise.
    unsafe {
        state.load();
        enter_user(&mut state.frame);
    }
    match state.frame.vector {
        SYSTEM_CALL => Exit::SystemCall,
        number @ 0..32 => Exit::Exception {
            vector: Vector(number as u8),
            error: state.frame.error,
            address: per_cpu::current().user.fault_address.get(),
        },
        _ => Exit::Interrupt,
    }
}
