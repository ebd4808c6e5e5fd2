//! Compares the host's Linux with the model on random logs, or on a given one.

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
mod program {
    use std::error::Error;
    use std::path::PathBuf;
    use std::time::Duration;

    use clap::Parser;
    use topomem_posix::compare::campaign::Campaign;
    use topomem_posix::compare::compare;
    use topomem_posix::compare::coverage::Coverage;
    use topomem_posix::linux::Linux;
    use topomem_posix::log::Log;

    /// Compares the host's Linux with a plain model of its memory calls.
    #[derive(Parser)]
    struct Arguments {
        /// The first log's seed.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// The most logs.
        #[arg(long, default_value_t = u64::MAX)]
        logs: u64,
        /// The most seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// A file with a log to run instead of random ones.
        #[arg(long)]
        replay: Option<PathBuf>,
    }

    pub(super) fn run() -> Result<(), Box<dyn Error>> {
        let arguments = Arguments::parse();
        let mut linux = Linux::of_host()?;
        let coverage = match arguments.replay {
            Some(path) => {
                let log: Log = std::fs::read_to_string(path)?.parse()?;
                let mut coverage = Coverage::default();
                compare(&mut linux, &log, None, &mut coverage)
                    .map_err(|difference| difference.to_string())?;
                coverage
            }
            None => {
                let Arguments { seed, logs, seconds, .. } = arguments;
                let campaign = Campaign { seed, logs, time: Duration::from_secs(seconds), mutation: None };
                campaign.run(&mut linux).map_err(|found| found.to_string())?
            }
        };
        print!("{coverage}");
        Ok(())
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
fn main() -> std::process::ExitCode {
    match program::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", not(miri))))]
fn main() {
    eprintln!("only Linux on x86-64 can be compared");
}
