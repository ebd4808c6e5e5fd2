//! Checks memory that processes share, and files in memory: what is seen where, and when. The argument says what;
//! the exit code is 0 if all is right, else the number of the check that failed.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod checks;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if let Some(check) = std::env::args().nth(1).and_then(|name| checks::by_name(&name)) {
        return match check() {
            Ok(()) => ExitCode::SUCCESS,
            Err(number) => ExitCode::from(number),
        };
    }
    eprintln!("no such check");
    ExitCode::from(2)
}
