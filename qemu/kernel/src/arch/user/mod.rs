//! User mode: entering it, leaving it, and what of a thread stays in the CPU's registers meanwhile.
//!
//! A user thread has no kernel stack. [`enter`] saves the kernel's own registers and loads the thread's;
//! a system call, an exception or an interrupt stores the thread's registers in its [`UserState`] and
//! returns from [`enter`].
//!
//! The kernel's GS base is the CPU's area, and a user program has a GS base of its own: SWAPGS exchanges
//! them at each entry and exit. User programs change their bases by a system call only (CR4.FSGSBASE is
//! clear), so that a user's GS base is never one of the kernel's addresses; the handlers that come at any
//! instruction rely on that.

mod access;
mod copy;
mod entry;
mod floating_point;
mod state;

pub(crate) use access::{allow_access, choose_access_prevention, enable_access_prevention};
pub(crate) use copy::{UserFault, load, read, recover, write};
pub(crate) use entry::{UserMode, enable_system_calls};
pub(crate) use floating_point::{FLOATING_POINT_BYTES, FloatingPoint};
pub(crate) use state::{Exit, UserState, enter};

use super::paging::LEVELS;

/// Where the addresses end that a user program may have: the last page of the lower half is no one's.
pub(crate) const USER_END: u64 = LEVELS.lower_half_end() - 4096;
