//! Prints one JSON line per measurement; `cargo xtask bench` renders them.

use std::error::Error;

use clap::{Parser, Subcommand, ValueEnum};
#[cfg(topomem_count)]
use topomem_benches::contention;
#[cfg(feature = "hardening")]
use topomem_benches::hardening;
use topomem_benches::instructions::{CountedFree, CountedOrder};
use topomem_benches::ranges::RangeCase;
use topomem_benches::sample::Summary;
use topomem_benches::subjects::{Bitmap, Buddy, Nothing, Paranoid, Topomem};
use topomem_benches::suite::{self, Effort};
use topomem_benches::{heap, instructions, ranges};
#[cfg(feature = "hardening")]
use topomem_percpu::{Hardening, Measure};

/// Measures topomem beside its peers.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Times all cases on all subjects, interleaved
    Frames {
        /// A few rounds only
        #[arg(long)]
        quick: bool,
    },
    /// Says how much bookkeeping each subject needs
    Metadata,
    /// Counts what CPUs cost each other that allocate and free frames
    #[cfg(topomem_count)]
    Contention {
        /// Draw the figures to FILE
        #[arg(long, value_name = "FILE")]
        svg: Option<std::path::PathBuf>,
    },
    /// Counts what CPUs cost each other that make, use and remove regions of one address space
    #[cfg(topomem_count)]
    Spaces {
        /// Draw the figures to FILE
        #[arg(long, value_name = "FILE")]
        svg: Option<std::path::PathBuf>,
    },
    /// Counts what CPUs cost each other that use one heap
    #[cfg(topomem_count)]
    HeapContention {
        /// Draw the figures to FILE
        #[arg(long, value_name = "FILE")]
        svg: Option<std::path::PathBuf>,
    },
    /// Counts topomem's atomic read-modify-writes in pairs that its magazine serves, and cache lines of frees in random
    /// order
    #[cfg(topomem_count)]
    Hits,
    /// Runs bursts of pairs for callgrind, which counts inside `counted_bursts`
    Bursts {
        #[arg(long)]
        subject: SubjectName,
        /// Of which runs
        #[arg(long)]
        order: OrderName,
        /// How many are counted
        #[arg(long)]
        bursts: usize,
    },
    /// Frees 1 GiB in random order for callgrind, which counts inside `counted_frees` or `counted_frees_of_lists`
    Frees {
        #[arg(long)]
        subject: SubjectName,
        #[arg(long)]
        how: FreeName,
    },
    /// Measures all cases of the heap on all subjects, interleaved
    Heap {
        /// A few rounds only
        #[arg(long)]
        quick: bool,
    },
    /// Says how much memory topomem's heap holds for what its callers hold
    HeapHeld,
    /// Takes one sample of a case of the heap; prints its figures
    HeapSample {
        #[arg(long)]
        subject: String,
        #[arg(long)]
        case: String,
        #[arg(long)]
        cpus: usize,
        /// A short one
        #[arg(long)]
        quick: bool,
    },
    /// Runs a case of the heap for callgrind, which counts inside the functions of `heap::counted`
    HeapCounted {
        #[arg(long)]
        subject: String,
        #[arg(long)]
        case: String,
        /// How many are counted
        #[arg(long)]
        operations: usize,
    },
    /// Runs a case of kernel ranges for callgrind, which counts inside `ranges::counted`
    RangesCounted {
        #[arg(long)]
        case: RangeName,
        /// How many are counted
        #[arg(long)]
        operations: usize,
    },
    /// Runs pairs of 64 bytes on a heap with measures against wrong uses for callgrind, which counts
    /// inside `counted_pairs`; prints the bytes of an object's block
    #[cfg(feature = "hardening")]
    Hardened {
        #[arg(long)]
        measure: MeasureName,
        /// How many are counted
        #[arg(long)]
        pairs: usize,
    },
}

/// A measure of the heap against wrong uses, none, or all.
#[cfg(feature = "hardening")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MeasureName {
    None,
    Poison,
    RedZones,
    Quarantine,
    ZeroOnFree,
    LeakTracking,
    All,
}

#[cfg(feature = "hardening")]
impl MeasureName {
    fn hardening(self) -> Hardening {
        match self {
            MeasureName::None => Hardening::NONE,
            MeasureName::Poison => Hardening::NONE.with(Measure::Poison),
            MeasureName::RedZones => Hardening::NONE.with(Measure::RedZones),
            MeasureName::Quarantine => Hardening::NONE.with(Measure::Quarantine),
            MeasureName::ZeroOnFree => Hardening::NONE.with(Measure::ZeroOnFree),
            MeasureName::LeakTracking => Hardening::NONE.with(Measure::Tracking),
            MeasureName::All => Hardening::ALL,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
enum SubjectName {
    #[value(name = "topomem")]
    Topomem,
    #[value(name = "topomem paranoid")]
    Paranoid,
    #[value(name = "bitmap-allocator")]
    Bitmap,
    #[value(name = "buddy_system_allocator")]
    Buddy,
    #[value(name = "(loop)")]
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FreeName {
    Single,
    List,
}

impl From<FreeName> for CountedFree {
    fn from(name: FreeName) -> CountedFree {
        match name {
            FreeName::Single => CountedFree::Single,
            FreeName::List => CountedFree::List,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OrderName {
    #[value(name = "0")]
    Order0,
    #[value(name = "0-far-cpu")]
    Order0FarCpu,
    #[value(name = "1")]
    Order1,
    #[value(name = "3")]
    Order3,
    #[value(name = "6")]
    Order6,
    #[value(name = "8")]
    Order8,
}

impl From<OrderName> for CountedOrder {
    fn from(name: OrderName) -> CountedOrder {
        match name {
            OrderName::Order0 => CountedOrder::Order0,
            OrderName::Order0FarCpu => CountedOrder::Order0FarCpu,
            OrderName::Order1 => CountedOrder::Order1,
            OrderName::Order3 => CountedOrder::Order3,
            OrderName::Order6 => CountedOrder::Order6,
            OrderName::Order8 => CountedOrder::Order8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RangeName {
    Pair,
    Scattered,
    Remapped,
    Copied,
}

impl From<RangeName> for RangeCase {
    fn from(name: RangeName) -> RangeCase {
        match name {
            RangeName::Pair => RangeCase::Pair,
            RangeName::Scattered => RangeCase::Scattered,
            RangeName::Remapped => RangeCase::Remapped,
            RangeName::Copied => RangeCase::Copied,
        }
    }
}

fn print(summaries: &[Summary]) -> Result<(), Box<dyn Error + Send + Sync>> {
    for summary in summaries {
        println!("{}", serde_json::to_string(summary)?);
    }
    Ok(())
}

fn effort(quick: bool) -> Effort {
    if quick { Effort::Quick } else { Effort::Full }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    match Cli::parse().command {
        Command::Frames { quick } => {
            print(&suite::run(effort(quick)).summaries())?;
        }
        Command::Metadata => print(&suite::metadata())?,
        #[cfg(topomem_count)]
        Command::Contention { svg } => {
            let summaries = contention::run_frames();
            print(&summaries)?;
            if let Some(path) = svg {
                contention::draw_frames(&summaries, &path)?;
            }
        }
        #[cfg(topomem_count)]
        Command::Spaces { svg } => {
            let summaries = contention::run_spaces();
            print(&summaries)?;
            if let Some(path) = svg {
                contention::draw_spaces(&summaries, &path)?;
            }
        }
        #[cfg(topomem_count)]
        Command::HeapContention { svg } => {
            let summaries = contention::run_heap();
            print(&summaries)?;
            if let Some(path) = svg {
                contention::draw_heap(&summaries, &path)?;
            }
        }
        #[cfg(topomem_count)]
        Command::Hits => {
            print(&[contention::read_modify_writes(), contention::lines_of_random_frees()])?;
        }
        Command::Bursts { subject, order, bursts } => match subject {
            SubjectName::Topomem => instructions::run::<Topomem>(order.into(), bursts),
            SubjectName::Paranoid => instructions::run::<Paranoid>(order.into(), bursts),
            SubjectName::Bitmap => instructions::run::<Bitmap>(order.into(), bursts),
            SubjectName::Buddy => instructions::run::<Buddy>(order.into(), bursts),
            SubjectName::Nothing => instructions::run::<Nothing>(order.into(), bursts),
        },
        Command::Frees { subject, how } => match subject {
            SubjectName::Topomem => instructions::run_frees::<Topomem>(how.into()),
            SubjectName::Paranoid => instructions::run_frees::<Paranoid>(how.into()),
            SubjectName::Bitmap => instructions::run_frees::<Bitmap>(how.into()),
            SubjectName::Buddy => instructions::run_frees::<Buddy>(how.into()),
            SubjectName::Nothing => instructions::run_frees::<Nothing>(how.into()),
        },
        Command::Heap { quick } => print(&heap::run(effort(quick))?)?,
        Command::HeapHeld => print(&heap::run_held()?)?,
        Command::HeapSample { subject, case, cpus, quick } => {
            heap::run_sample(&subject, &case, cpus, effort(quick))?;
        }
        Command::HeapCounted { subject, case, operations } => {
            heap::run_counted(&subject, &case, operations)?;
        }
        Command::RangesCounted { case, operations } => ranges::run(case.into(), operations)?,
        #[cfg(feature = "hardening")]
        Command::Hardened { measure, pairs } => {
            println!("{}", hardening::run(pairs, measure.hardening()));
        }
    }
    Ok(())
}
