//! Stops an operation after one of its instructions and runs another context there.
//!
//! A kernel's allocator may be interrupted after any instruction, and another CPU may act between
//! any two. Random signals and threads reach few of these places, and not the same ones twice.
//! This crate reaches all of them, one after the other: it sets the trap flag of the x86 CPU, so
//! that the host's kernel sends a signal after each instruction, and calls a closure (the *nested
//! context*) from the signal's handler. The closure runs on the stopped thread, as an interrupt
//! handler does. It plays another CPU if it uses a pin of another CPU.
//!
//! - [`count`] tells how many instructions an operation has.
//! - [`stop_after`] runs an operation, and a nested context after its n-th instruction.
//! - [`Trace`] does the same many times, at less cost.
//! - [`Matrix`] combines operations and contexts from a table, chooses the stop points, and
//!   reports what it did and where it failed.
//! - [`masked`] runs code that is never stopped, like code that runs with interrupts masked.
//!
//! Threads step independently of each other: the trap flag, the signal and the crate's state
//! belong to one thread.
//!
//! # What a nested context may do
//!
//! Everything that is safe on another thread: the closures are `Send`, so what they share is
//! `Sync`. A nested context must not need what the stopped code holds, such as a lock: the stopped
//! code goes on only after the context has returned. The host's memory allocator is such a thing,
//! so operations should not use the host's heap, or should use it under [`masked`]. The types do
//! not exclude one thing: thread-local variables. A thread-local variable that the operation
//! changes must not be used by the context.
//!
//! # Cost
//!
//! A trap takes a few microseconds, on a virtual machine about ten. [`stop_after`] takes one for
//! each instruction before the stop. A [`Trace`] knows the operation's course, and lets most
//! stops be reached at full speed by a hardware breakpoint, if the host's kernel lends one; the
//! matrix uses that.
//!
//! ```
//! # #[cfg(all(target_os = "linux", target_arch = "x86_64"))] {
//! use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
//!
//! let counter = AtomicU32::new(0);
//! // An increment in two steps loses what happens in between.
//! let operation = || counter.store(counter.load(Relaxed) + 1, Relaxed);
//! let instructions = topomem_stepper::count(operation);
//! let mut lost = 0;
//! for at in 0..instructions {
//!     counter.store(0, Relaxed);
//!     topomem_stepper::stop_after(at, operation, |_| {
//!         counter.fetch_add(1, Relaxed);
//!     });
//!     lost += u32::from(counter.load(Relaxed) != 2);
//! }
//! assert!(lost > 0);
//! # }
//! ```
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(miri), not(loom)))]

mod address;
mod breakpoint;
mod matrix;
mod plan;
mod run;
mod string;
mod trace;
mod trap;
mod watchdog;

pub use matrix::{Context, Matrix, Operation};
pub use plan::Plan;
pub use run::{Stop, count, stop_after};
pub use trace::Trace;
pub use trap::masked;
