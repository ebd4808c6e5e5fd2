//! Why the kernel could not boot.

use core::fmt;

use topomem::address_space::WritableCode;
use topomem::numa::{BootAllocError, MapFull};
use topomem_boot::{MapError, NoEarlyMemory, StartInfoError, Unreachable};

use crate::arch::exit::{self, Outcome};
use crate::arch::interrupt::apic::SetUpError;
use crate::log::Json;
use crate::memory::bring_up::BringUpError;
use crate::{log, record};

/// Why the boot CPU stops.
#[derive(Debug)]
pub(super) enum BootError {
    /// The loader's words make no sense.
    StartInfo(StartInfoError),
    /// No memory for the first page tables.
    EarlyMemory(NoEarlyMemory),
    /// A mapping could not be made.
    Map(MapError),
    /// The firmware's memory map has too many pieces.
    MapFull(MapFull),
    /// No memory for a CPU's area and stacks.
    Memory(BootAllocError),
    /// The boot CPU's local APIC could not be set up.
    Apic(SetUpError),
    /// The service had begun to boot before.
    Service(topomem::BootError<core::convert::Infallible>),
    /// The service did not come up.
    BringUp(BringUpError),
    /// The kernel's own code could be written to.
    WritableCode(WritableCode),
    /// The tables cannot be made to lie.
    #[cfg(feature = "fault-injection")]
    Distort(topomem_stress::NothingToDistort),
    /// No memory below 1 MiB for the code that CPUs start with.
    NoStartUpPage,
    /// No message reaches the boot CPU itself.
    Unreachable(Unreachable),
    /// The topology lists not even the boot CPU.
    NoCpus,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::StartInfo(error) => error.fmt(f),
            BootError::EarlyMemory(error) => error.fmt(f),
            BootError::Map(error) => error.fmt(f),
            BootError::MapFull(error) => error.fmt(f),
            BootError::Memory(error) => error.fmt(f),
            BootError::Apic(error) => error.fmt(f),
            BootError::Service(error) => error.fmt(f),
            BootError::BringUp(error) => error.fmt(f),
            BootError::WritableCode(found) => {
                write!(f, "the code at {} can be written at {}", found.executable, found.writable)
            }
            #[cfg(feature = "fault-injection")]
            BootError::Distort(error) => error.fmt(f),
            BootError::NoStartUpPage => f.write_str("no free page below 1 MiB to start CPUs from"),
            BootError::Unreachable(error) => error.fmt(f),
            BootError::NoCpus => f.write_str("the topology lists no CPU"),
        }
    }
}

/// Says why, and ends the run.
pub(super) fn fail(error: &BootError) -> ! {
    log!("cannot boot: {error}");
    record!(
        "{{\"t\":\"failure\",\"what\":{},\"where\":\"boot\"}}",
        Json(format_args!("cannot boot: {error}"))
    );
    record!("{{\"t\":\"end\",\"ok\":false}}");
    exit::exit(Outcome::Failures)
}
