//! Compares the reference kernel's memory calls with a plain model, on random logs and on known cases: the
//! differential test, in ring 3.
//!
//! `posix logs N` runs N logs that differ from one CPU to the next, `posix seeds FIRST N` those of N seeds,
//! `posix cases` the known cases. The first log with a difference is made small and printed. The program ends
//! with failure then.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod program {
    use std::time::Duration;

    use topomem_posix::cases;
    use topomem_posix::compare::campaign::Campaign;
    use topomem_posix::compare::system::System;
    use topomem_posix::linux::Linux;

    /// So many cases at least ask for nothing that the kernel does not have.
    const LEAST_CASES: usize = 60;
    /// How far the seeds of CPUs are apart.
    const SEEDS: u64 = 1_000_000;

    /// Does what the arguments say. Returns what agrees.
    pub(super) fn run(arguments: &[String]) -> Result<String, String> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match *words.as_slice() {
            ["logs", logs] => random(SEEDS * cpu(), number(logs)?),
            ["seeds", first, logs] => random(number(first)?, number(logs)?),
            ["cases"] => known(),
            _ => Err("no such test".to_owned()),
        }
    }

    fn number(text: &str) -> Result<u64, String> {
        text.parse().map_err(|_| format!("{text:?} is no number"))
    }

    fn cpu() -> u64 {
        // SAFETY: asks where the thread runs.
        u64::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
    }

    fn random(seed: u64, logs: u64) -> Result<String, String> {
        let campaign = Campaign { seed, logs, time: Duration::MAX, mutation: None };
        let coverage = campaign.run(&mut Linux::of_reference_kernel()).map_err(|found| found.to_string())?;
        Ok(format!("{} logs agree", coverage.logs))
    }

    fn known() -> Result<String, String> {
        let mut linux = Linux::of_reference_kernel();
        let cases: Vec<_> =
            cases::all(&linux.rules()).into_iter().filter(|case| linux.has(&case.log)).collect();
        let wrong: Vec<String> = cases
            .iter()
            .filter_map(|case| case.check(&mut linux).err())
            .map(|wrong| wrong.to_string())
            .collect();
        match wrong.is_empty() {
            true if cases.len() < LEAST_CASES => Err(format!("{} cases are too few", cases.len())),
            true => Ok("all cases are answered as known".to_owned()),
            false => Err(wrong.join("\n")),
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match program::run(&arguments) {
        Ok(agreed) => {
            println!("{agreed}");
            std::process::ExitCode::SUCCESS
        }
        Err(difference) => {
            eprintln!("{difference}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {}
