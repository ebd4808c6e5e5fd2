//! What topomem's operations on address spaces cost on this machine: exact guest instructions
//! where the clock counts them (`-icount`), else time.
//!
//! Which cases run follows from the machine: one CPU by itself, one that others answer, and, in
//! time, one while others use the space, or idle in it.

mod alone;
mod bare;
mod broadcast;
mod counts;
mod flush;
mod helpers;
mod idle;
mod orders;
mod repetitions;
mod samples;
mod space;
mod spinning;
mod unit;

pub(crate) use bare::on_interrupt;

use core::fmt;

use topomem::address_space::CreateError;
use topomem::{MapError, ProtectError, UnmapError};

use crate::arch::exit::Outcome;
use crate::boot::command_line::CommandLine;
use crate::executor::SpawnError;
use crate::scenario::failure;
use crate::smp::ipi;
use repetitions::Repetitions;
use samples::OutOfMemory;
use unit::Unit;

/// Why a case could not be measured.
#[derive(Debug)]
enum MeasureError {
    Create(CreateError),
    Map(MapError),
    Protect(ProtectError),
    Unmap(UnmapError),
    Spawn(SpawnError),
    OutOfMemory,
    /// The command line lacks this word.
    NotAsked(&'static str),
    /// A page that was just mapped is not accessible.
    Inaccessible(u64),
}

impl fmt::Display for MeasureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeasureError::Create(error) => error.fmt(f),
            MeasureError::Map(error) => error.fmt(f),
            MeasureError::Protect(error) => error.fmt(f),
            MeasureError::Unmap(error) => error.fmt(f),
            MeasureError::Spawn(error) => error.fmt(f),
            MeasureError::OutOfMemory => f.write_str("no memory for the samples"),
            MeasureError::NotAsked(word) => write!(f, "the word {word}= is missing"),
            MeasureError::Inaccessible(address) => write!(f, "nothing answers at {address:#x}"),
        }
    }
}

macro_rules! from {
    ($($variant:ident($error:ty)),* $(,)?) => {
        $(impl From<$error> for MeasureError {
            fn from(error: $error) -> MeasureError {
                MeasureError::$variant(error)
            }
        })*
    };
}

from! {
    Create(CreateError),
    Map(MapError),
    Protect(ProtectError),
    Unmap(UnmapError),
    Spawn(SpawnError),
}

impl From<OutOfMemory> for MeasureError {
    fn from(_: OutOfMemory) -> MeasureError {
        MeasureError::OutOfMemory
    }
}

/// Measures the shootdown suite.
pub(crate) async fn shootdown(words: CommandLine<'_>) -> Outcome {
    match measure(words).await {
        Ok(()) => Outcome::Success,
        Err(error) => {
            failure(format_args!("{error}"), "measurement");
            Outcome::Failures
        }
    }
}

async fn measure(words: CommandLine<'_>) -> Result<(), MeasureError> {
    let n = Repetitions::of(words)?;
    let unit = Unit::of_this_machine();
    match (unit, ipi::running().len()) {
        (Unit::Instructions, 1) => alone::measure(unit, n),
        (Unit::Microseconds, 1) => {
            alone::measure(unit, n)?;
            flush::measure(unit)
        }
        (Unit::Instructions, _) => {
            broadcast::measure(unit, n).await?;
            idle::measure(unit, n.idle).await
        }
        (Unit::Microseconds, _) => {
            spinning::measure(unit, n).await?;
            idle::measure(unit, n.idle).await
        }
    }
}
