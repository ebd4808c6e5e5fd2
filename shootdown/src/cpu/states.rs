//! The table of the CPUs' states.

use core::fmt;

use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuId, CpuTable};

use crate::cpu::CpuState;

/// The state of all CPUs that have none of their own.
#[cfg(not(loom))]
static ABSENT: CpuState = CpuState::new();

// loom's atomics live in one run of a model.
#[cfg(loom)]
loom::lazy_static! {
    static ref ABSENT: CpuState = CpuState::new();
}

/// Why a CPU did not get a state.
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
/// # use topomem_percpu::Platform;
/// # use topomem_shootdown::{Domain, Shootdown, Tlb};
/// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
/// # static SPACE: Domain = Domain::new();
/// # let pin = QUEUE.tlb().pin();
/// use topomem_shootdown::CpuState;
///
/// static FIRST: CpuState = CpuState::new();
/// static SECOND: CpuState = CpuState::new();
/// assert!(QUEUE.place(pin.cpu(), &FIRST).is_ok());
/// assert!(QUEUE.place(pin.cpu(), &SECOND).is_err()); // a CPU's state stays where it is
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PlaceError {
    /// The CPU has a state already.
    CpuHasState,
    /// The state is a CPU's already, in this queue or another.
    StateInUse,
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PlaceError::CpuHasState => "the CPU has a state already",
            PlaceError::StateInUse => "the state is a CPU's already",
        })
    }
}

impl core::error::Error for PlaceError {}

/// Makes a table in which no CPU has a state of its own.
#[cfg(not(loom))]
pub(crate) const fn no_states() -> CpuTable<CpuState> {
    CpuTable::new(&ABSENT)
}

/// The same (loom's atomics have no `const` constructor).
#[cfg(loom)]
pub(crate) fn no_states() -> CpuTable<CpuState> {
    CpuTable::new(&*ABSENT)
}

/// Gives `cpu` its state, for good. A state serves one CPU.
pub(crate) fn place(
    states: &CpuTable<CpuState>,
    cpu: CpuId,
    state: &'static CpuState,
) -> Result<(), PlaceError> {
    // Relaxed: the flag decides which CPU gets the state, and orders nothing.
    if state.is_placed.swap(true, Ordering::Relaxed) {
        return Err(PlaceError::StateInUse);
    }
    states.place(cpu, state).map_err(|state| {
        state.is_placed.store(false, Ordering::Relaxed);
        PlaceError::CpuHasState
    })
}
