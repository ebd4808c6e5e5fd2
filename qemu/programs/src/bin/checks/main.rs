//! Checks what a program relies on without thinking of it: registers, the red zone, signals, bad pointers, other
//! CPUs. The argument says what; the exit code is 0 if all is right, else the number of the check that failed.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> ExitCode {
    topomem_programs::run(linux::by_name)
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() -> ExitCode {
    ExitCode::from(255)
}
