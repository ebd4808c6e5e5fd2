//! `break=`: one mechanism does not work, and the run has to find out.

use core::fmt;

use topomem_stress::Break;

use crate::arch::tlb;
use crate::boot::command_line::CommandLine;

/// The command line wants broken what cannot be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BreakError<'a> {
    /// Nothing is called that.
    Unknown(&'a str),
    /// The kernel was built without `fault-injection`.
    NotBuiltIn(Break),
    /// The CPUs' TLBs have nothing of the kind, or the command line keeps it from being used.
    NotThere(Break),
}

impl fmt::Display for BreakError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BreakError::Unknown(name) => write!(f, "nothing to break is called {name}"),
            BreakError::NotBuiltIn(fault) => {
                write!(f, "breaking {} needs a kernel with fault-injection", fault.name())
            }
            BreakError::NotThere(fault) => {
                write!(f, "the TLBs in use have nothing that {} could break", fault.name())
            }
        }
    }
}

/// Which mechanism the command line wants broken.
///
/// # Errors
///
/// [`BreakError`].
pub(crate) fn requested(words: CommandLine<'_>) -> Result<Option<Break>, BreakError<'_>> {
    let Some(name) = words.value("break") else { return Ok(None) };
    let fault = Break::named(name).ok_or(BreakError::Unknown(name))?;
    if !cfg!(feature = "fault-injection") {
        return Err(BreakError::NotBuiltIn(fault));
    }
    if fault.is_possible(tlb::features()) { Ok(Some(fault)) } else { Err(BreakError::NotThere(fault)) }
}
