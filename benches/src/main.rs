//! Prints one JSON line per measurement; `cargo xtask bench` renders them.

use clap::{Parser, Subcommand, ValueEnum};
use topomem_benches::instructions;
use topomem_benches::subjects::{Bitmap, Buddy, Nothing, Topomem};
use topomem_benches::suite::{Effort, run};

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
    /// Runs bursts of pairs for callgrind, which counts inside `counted_bursts`
    Bursts {
        #[arg(long)]
        subject: SubjectName,
        /// How many are counted
        #[arg(long)]
        bursts: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
enum SubjectName {
    #[value(name = "topomem")]
    Topomem,
    #[value(name = "bitmap-allocator")]
    Bitmap,
    #[value(name = "buddy_system_allocator")]
    Buddy,
    #[value(name = "(loop)")]
    Nothing,
}

fn main() {
    match Cli::parse().command {
        Command::Frames { quick } => {
            let effort = if quick { Effort::Quick } else { Effort::Full };
            for summary in run(effort).summaries() {
                if let Ok(line) = serde_json::to_string(&summary) {
                    println!("{line}");
                }
            }
        }
        Command::Bursts { subject, bursts } => match subject {
            SubjectName::Topomem => instructions::run::<Topomem>(bursts),
            SubjectName::Bitmap => instructions::run::<Bitmap>(bursts),
            SubjectName::Buddy => instructions::run::<Buddy>(bursts),
            SubjectName::Nothing => instructions::run::<Nothing>(bursts),
        },
    }
}
