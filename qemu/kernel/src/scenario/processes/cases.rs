//! What programs are run, and how they must end.

use crate::process::Ending;

/// One program.
#[derive(Debug)]
pub struct Case {
    /// Its arguments, its name in the RAM disk first.
    pub arguments: &'static [&'static str],
    /// How it must end.
    pub ending: Ending,
    /// What it must write.
    pub output: &'static str,
}

/// A program that ends by itself.
const fn exits(arguments: &'static [&'static str], code: u8, output: &'static str) -> Case {
    Case { arguments, ending: Ending::Exited(code), output }
}

/// All cases.
pub const CASES: &[Case] = &[exits(
    &["plain", "4"],
    0,
    "4 threads\nsum 31996000\nwords 327500\nin turn 40\nslept true\ndeep 1000\n",
)];
