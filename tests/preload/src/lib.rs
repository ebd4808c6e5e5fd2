//! The heap as a shared library that exports C's allocation functions, so that `LD_PRELOAD` runs any
//! program on the heap: `cargo xtask preload -- PROGRAM ARGUMENTS…`.
//!
//! It is the stack of a kernel: [`Heap`](topomem_percpu::Heap) over
//! [`Frames`](topomem_numa::frames::Frames). RAM is one range of address space that is reserved at
//! the first allocation, and CPUs are threads.
//!
//! - `threads`: a thread has a CPU's number from its first allocation until it ends, and then gives
//!   back what the CPU's magazines hold. The threads beyond the last number share one that never
//!   comes online, so they are served by the heap's shared path.
//! - `gate`: a fork waits until no thread is inside the heap, so the child has a whole heap.
//! - `machine`: the platform, the pages and the memory below them.
//! - `mappings`: allocations beyond the largest run of pages are mappings of their own.
//! - `exports`: the functions, as the C standard, POSIX and glibc describe them.
//! - `report`: counts at the program's end, if `TOPOMEM_PRELOAD_REPORT` names a file for them.
//!
//! Signal handlers may allocate: they nest in the heap's uses like interrupt handlers. Nothing in here
//! allocates from Rust's global allocator, which would come back to `malloc`.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod errno;
mod exports;
mod gate;
mod machine;
mod mappings;
mod report;
mod start;
mod threads;
