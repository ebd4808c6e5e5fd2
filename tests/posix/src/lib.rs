//! Compares virtual memory with a plain model and with the host's Linux, call by call.

pub mod answer;
mod at;
pub mod campaign;
pub mod cases;
pub mod compare;
pub mod coverage;
pub mod generate;
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
pub mod linux;
pub mod log;
pub mod model;
pub mod operation;
pub mod rules;
pub mod shrink;
pub mod slots;
pub mod system;
