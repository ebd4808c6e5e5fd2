//! Compares virtual memory with a plain model and with the host's Linux, call by call.
//!
//! A [`Log`](log::Log) is a sequence of operations: calls of the mmap family, accesses of single
//! bytes, forks, and inspections of everything that is mapped. A [`System`](compare::system::System) runs a log and
//! answers each operation: results, error numbers, bytes, signals, the list of mappings. The
//! [`Model`](model::Model) says which answers are right. [`compare`](compare::compare) finds the first one
//! that is not.
//!
//! - [`campaign`](compare::campaign) runs random logs, and makes a log that shows a difference small. The log is printed, and
//!   `cargo run -p topomem-posix -- --replay FILE` runs it again.
//! - [`cases`] are short logs whose answers are known: corner cases, and errors that other systems had.
//! - [`Mutation`](model::Mutation)s are deliberate errors of the model. A test proves that the comparison sees
//!   each of them.
//! - [`coverage`](compare::coverage) counts what was reached. The test of random logs fails if something was hardly tried.
//!
//! `cargo run --release -p topomem-posix -- --seed 1 --seconds 600` runs as many random logs as fit into the
//! time. The tests take the number of logs from `TOPOMEM_POSIX_LOGS` and the first seed from
//! `TOPOMEM_POSIX_SEED`.
//!
//! # topomem
//!
//! [`SimSystem`](sim::SimSystem) runs logs on a simulated machine: one after the other, with the CPUs taking turns
//! at the steps, or several at the same time, in windows of one address space that share page tables. After
//! each log no frame may be missing. The second file has a pager, which the CPU that waits for it serves. A
//! [`Scope`](compare::scope::Scope) says which operations there are; logs are adapted to it. Known differences from Linux, each by a rule:
//!
//! - There are no write-only and execute-only mappings.
//! - `brk` keeps no distance from the mapping above the heap, and shrinks over holes.
//! - `mremap` moves one region, and changes nothing if it fails. A range with guards and other pages is
//!   more than one region.
//! - A stack keeps away from all accessible pages below, other stacks and what lies below an inaccessible
//!   neighbour included.
//! - `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE` grow stacks, as accesses do.
//! - Pages of a file that one mapping may write to, no other mapping may execute (`EACCES`); so objects of logs
//!   have the capability that permits it ([`permit_write_execute`][permit]), and answer as Linux does.
//! - There are no `mlock` and `munlock`.
//! - `MADV_DONTFORK` and `MADV_WIPEONFORK` exclude each other: the last one counts.
//!
//! [permit]: topomem::object::MemoryObject::permit_write_execute
//!
//! # Ring 3
//!
//! The program `posix` of the package `topomem-programs` runs logs and cases in ring 3 of the reference kernel,
//! through the kernel's system calls: [`Linux::of_reference_kernel`][ring3]. The scenario `processes` starts it on
//! every CPU, each time with other logs. The rules are those above. Processes of a log hop from CPU to CPU. Memory
//! that is writable in one mapping and executable in another is denied to programs, so that a log has either
//! mappings of objects or executable ones ([`Scope::WITHOUT_EXECUTION`](compare::scope::Scope::WITHOUT_EXECUTION),
//! [`Scope::WITHOUT_OBJECTS`](compare::scope::Scope::WITHOUT_OBJECTS)). `posix seeds FIRST N` runs the logs of N seeds.
//!
//! [ring3]: linux::Linux::of_reference_kernel
//!
//! # A further system
//!
//! It implements [`Process`](compare::system::Process) (a call, an access, a page's bytes, a list of mappings) and
//! [`System`](compare::system::System), whose `run` passes each step to [`execute`](compare::system::execute) and does
//! forks and exits itself.
//!
//! # What is normalised
//!
//! - **Addresses.** A log names pages of a window, pages above the heap's start, and slots. A slot holds the
//!   address that a system chose. The model accepts any aligned and free address.
//! - **Lists of mappings.** Neighbours that a program cannot tell apart are joined on both sides. Whether a
//!   system joins them shows in one answer alone: `mremap` must not grow two mappings. Where both
//!   answers are right, the model takes the system's.
//! - **Contents.** Operations write at eight offsets of a page ([`OFFSETS`](log::operation::OFFSETS)); each
//!   inspection checks that all other bytes are zero.
//! - **Growth in place** of a mapping outside of the window and the heap: there others may have mapped
//!   something behind it, so that both answers are right. So it is with stacks there.
//! - **`mincore`**: residence is not compared.
//! - **Huge pages** are switched off for the processes of a log. One test runs topomem with huge pages, and with
//!   faults that map pages around: no answer may differ.
//! - **Stacks** may have 128 pages ([`STACK_PAGES`](model::STACK_PAGES)).
//! - **Linux's version**, configuration and CPU: [`Rules`](compare::rules::Rules) say what is expected of each.
//!
//! # Where several answers are right
//!
//! - After `MADV_FREE`, a page holds its bytes or zeros until it is written.
//! - Bytes that a mapping wrote behind the end of a file, in its last page, appear or not when the file
//!   grows over them.
//! - A hint may be passed over while the process has a stack, which keeps a gap.
//! - A fetch from a page that may be accessed and not executed is a fault of the mapping, or that of
//!   the page: a guard, or beyond the end. Linux on x86 looks at the page first.
//!
//! # What Linux does that POSIX does not ask for
//!
//! The model expects these as well:
//!
//! - A private mapping of a file shows later writes to the file until the page is copied. `MAP_POPULATE`,
//!   `mlock` and `MADV_POPULATE_WRITE` copy the pages of a private mapping that may be written.
//! - A file that shrinks takes private copies beyond its end away.
//! - What may be written may be read (x86). What may be executed alone cannot be read if the CPU has protection
//!   keys.
//! - A stack grows past an inaccessible neighbour, and stays 256 pages away from any other.
//! - The heap stays a page away from the mapping above it, and 256 pages from a stack.
//! - `MREMAP_DONTUNMAP` takes shared mappings, and an old length of 0 without leave to move is
//!   `ENOMEM`; the man page says otherwise.

pub mod cases;
pub mod compare;
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
pub mod linux;
pub mod log;
pub mod model;
#[cfg(all(feature = "host", not(any(miri, loom))))]
pub mod sim;
