//! Log lines for people and `@@` records for the runner.

use core::fmt;

use crate::arch::{clock, serial};
use crate::per_cpu;

/// Writes one log line: time since boot, CPU, text.
#[macro_export]
macro_rules! log {
    ($($part:tt)*) => { $crate::log::line(format_args!($($part)*)) };
}

/// Writes one record: `@@` and the JSON object that the arguments format.
#[macro_export]
macro_rules! record {
    ($($part:tt)*) => { $crate::arch::serial::write_line(format_args!("@@{}", format_args!($($part)*))) };
}

/// [`log!`]'s body.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let micros = clock::since_boot().as_micros();
    let cpu = per_cpu::current().cpu;
    serial::write_line(format_args!("[{:>4}.{:06}] {cpu}: {text}", micros / 1_000_000, micros % 1_000_000));
}

/// A text as a JSON string, quotes included.
#[derive(Debug)]
pub(crate) struct Json<T>(pub T);

impl<T: fmt::Display> fmt::Display for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;

        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(self.0, "\\{c}")?,
                        c if c < ' ' => write!(self.0, "\\u{:04x}", c as u32)?,
                        c => self.0.write_char(c)?,
                    }
                }
                Ok(())
            }
        }
        f.write_char('"')?;
        write!(Escape(f), "{}", self.0)?;
        f.write_char('"')
    }
}
