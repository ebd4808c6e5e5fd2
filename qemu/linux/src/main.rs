//! Measures what memory and changes of mappings cost, on Linux and on topomem's reference kernel.
//!
//! It runs as the first process of a guest that `cargo xtask` boots: process 1, from an initial RAM file system that
//! holds nothing else. The kernel's command line gives its arguments, results go to the console as records, and in
//! the end it powers the machine off, if the kernel does not. System calls are made without a C library's wrappers, so
//! that what is counted is the kernel's work.

use std::process::ExitCode;

/// Made for one system on one architecture; on other hosts this is an empty program, so that all packages build.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod guest;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if guest::is_ours() {
        return guest::run();
    }
    // Turning the machine off is for the guest's own.
    eprintln!("this is the first process of a guest: `cargo xtask` boots it under QEMU");
    ExitCode::from(2)
}
