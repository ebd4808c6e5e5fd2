//! Checks memory that processes share, and files in memory: what is seen where, and when. The argument says what;
//! the exit code is 0 if all is right, else the number of the check that failed.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod checks;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> ExitCode {
    topomem_programs::run(checks::by_name)
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() -> ExitCode {
    ExitCode::from(255)
}
