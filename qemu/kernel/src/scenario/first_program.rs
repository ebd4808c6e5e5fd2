//! One program alone: the RAM disk's `init`, with the arguments that stand behind `--` on the kernel's command
//! line, as Linux would run it. Its records are passed on.

extern crate alloc;

use alloc::vec::Vec;

use spin::Once;
use topomem::CpuId;
use topomem_boot::StartInfo;

use super::failure;
use super::program::{self, Problem};
use crate::arch::exit::Outcome;
use crate::file::{Console, Records};
use crate::process::{Ending, Shared};

/// The program's name in the RAM disk.
const NAME: &str = "init";
/// Its arguments; set once.
static ARGUMENTS: Once<Vec<&'static str>> = Once::new();

/// Runs it. Did it end with success?
pub(super) async fn run(start_info: &StartInfo) -> Outcome {
    match try_run(start_info).await {
        Ok(()) => Outcome::Success,
        Err(problem) => {
            failure(format_args!("{problem}"), NAME);
            Outcome::Failures
        }
    }
}

async fn try_run(start_info: &StartInfo) -> Result<(), Problem> {
    program::open_ram_disk(start_info)?;
    let words = start_info.command_line().split_once(" -- ").map_or("", |(_, words)| words);
    let arguments =
        ARGUMENTS.call_once(|| core::iter::once(NAME).chain(words.split_ascii_whitespace()).collect());
    let console = Shared::new(Console::new(NAME, Records::Relayed)).map_err(|_| Problem::OutOfMemory)?;
    program::run(CpuId::BOOT, arguments, console, Ending::Exited(0)).await
}
