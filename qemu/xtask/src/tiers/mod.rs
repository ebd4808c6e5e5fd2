//! The second kernel (`examples/kernel`), which takes topomem's tiers one at a time: what each costs it, and runs.

mod image;
mod run;
mod tier;
mod wiring;

pub(crate) use run::run;
pub(crate) use tier::Tier;

use crate::error::Error;
use crate::tools::{self, Tool};

/// Writes what each tier costs: lines of wiring, and bytes of the kernel's image.
pub(crate) fn tiers() -> Result<bool, Error> {
    tools::ensure(&[Tool::KernelTarget])?;
    println!("{:<14} {:>6} {:>9} {:>9} {:>9}", "tier", "lines", "text", "data", "bss");
    for tier in Tier::ALL {
        let size = image::size(&tier.build()?)?;
        let lines = wiring::lines(tier)?;
        println!("{:<14} {lines:>6} {:>9} {:>9} {:>9}", tier.name(), size.text, size.data, size.bss);
    }
    Ok(true)
}
