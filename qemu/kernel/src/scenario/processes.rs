//! Programs in ring 3, on all CPUs at once: each must end as it should and write what it should, and
//! afterwards each node must have the frames that it started with.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use async_task::Task;
use topomem::{CpuId, Topology};
use topomem_boot::StartInfo;
use topomem_stress::Break;

use super::failure;
use super::memory_back::{REST, account, is_back};
use super::program::{self, Problem};
use crate::arch::exit::Outcome;
use crate::executor::{sleep, spawn_on};
use crate::file::{self, Console, Records};
use crate::log;
use crate::process::{self, Shared};
use crate::smp::ipi;

mod cases;

use cases::{ATTACKS, Case, ISOLATION, LOGS, Output, PROGRAMS, SHELL};

/// Has a program not done as it should? Relaxed: the reports are written before, and nothing else depends on it.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);
/// How often each ordinary program runs at the same time, at most or so: a host has fewer processors than machines
/// have CPUs.
const RUNS: usize = 4;
/// Runs the programs on all CPUs, then programs beside attacks: what the kernel keeps after its first use is
/// there by then. With a fault, attacks on what keeps programs apart alone: one must succeed.
pub(super) async fn run(
    start_info: &StartInfo,
    topology: &'static Topology,
    fault: Option<Break>,
) -> Outcome {
    if let Err(problem) = program::open_ram_disk(start_info) {
        failure(format_args!("{problem}"), "processes");
        return Outcome::Failures;
    }

    if let Some(fault) = fault {
        inject(fault);
    }
    let mut participants = Vec::new();
    for cpu in ipi::running().iter() {
        let participate = move || async move {
            match fault {
                None => participate(cpu, topology).await,
                Some(_) => run_streams(cpu, [Stream::Isolation]).await,
            }
        };
        match spawn_on(cpu, participate) {
            Ok(participant) => participants.push(participant),
            // The others would wait for it.
            Err(error) => {
                failure(format_args!("{error}"), "processes");
                return Outcome::Failures;
            }
        }
    }
    if fault.is_some() {
        return first_failure(participants).await;
    }
    let mut is_right = true;
    for participant in participants {
        is_right &= participant.await;
    }
    if is_right { Outcome::Success } else { Outcome::Failures }
}

/// Waits for the first failure, or until all participants are done: programs that run with a fault may wait for
/// ever.
async fn first_failure(participants: Vec<Task<bool>>) -> Outcome {
    while !HAS_FAILED.load(Ordering::Relaxed) && !participants.iter().all(Task::is_finished) {
        sleep(REST).await;
    }
    participants.into_iter().for_each(Task::detach);
    if HAS_FAILED.load(Ordering::Relaxed) { Outcome::Failures } else { Outcome::Success }
}

#[cfg(feature = "fault-injection")]
fn inject(fault: Break) {
    fault.inject(&crate::memory::service::SERVICE);
}

/// Without the feature there is no fault to inject: `broken::requested` has refused it.
#[cfg(not(feature = "fault-injection"))]
fn inject(_: Break) {}

/// One CPU's part. Was all as it should be?
async fn participate(cpu: CpuId, topology: &'static Topology) -> bool {
    let mut is_right = run_streams(cpu, [Stream::Programs]).await;
    let before = account(topology, leave_programs).await;
    is_right &= run_streams(cpu, [Stream::Programs, Stream::Attacks]).await;
    is_back(cpu, &before, topology, leave_programs, |_| true).await && is_right
}

/// Has the executing CPU leave the programs' spaces and the files that they made.
fn leave_programs() {
    process::leave_spaces();
    file::forget_disk_files();
}

/// Runs `streams` on `cpu` at the same time. Did all end as they should?
async fn run_streams<const N: usize>(cpu: CpuId, streams: [Stream; N]) -> bool {
    let streams = streams.map(|stream| spawn_on(cpu, move || run_stream(cpu, stream)));
    let mut is_right = true;
    for stream in streams {
        match stream {
            Ok(stream) => is_right &= stream.await,
            Err(error) => {
                failure(format_args!("{error}"), "processes");
                is_right = false;
            }
        }
    }
    is_right
}

/// Runs the cases of `stream` on `cpu` one after another: all programs, of which each CPU begins with another, and
/// random logs; the CPU's share of the attacks, or all attacks on isolation.
async fn run_stream(cpu: CpuId, stream: Stream) -> bool {
    let mut is_right = true;
    let mut check = async |case: &'static Case| {
        if let Err(problem) = run_case(cpu, case).await {
            failure(format_args!("{}: {problem}", Name(case)), "processes");
            HAS_FAILED.store(true, Ordering::Relaxed);
            is_right = false;
        } else if cpu == CpuId::BOOT {
            // The runner gives up if nothing is said for long.
            log!("{}: as it must be", Name(case));
        }
    };
    let cpus = ipi::running().len();
    match stream {
        Stream::Programs => {
            let begin = cpu.index() % PROGRAMS.len();
            for case in PROGRAMS[begin..].iter().chain(&PROGRAMS[..begin]).step_by(cpus.div_ceil(RUNS)) {
                check(case).await;
            }
            check(LOGS).await;
            // It is not there where the runner cannot get it.
            let shell = if file::find(b"busybox").is_some() { SHELL } else { &[] };
            // They start many others: with more CPUs than a few, each runs its share of them.
            let share = cpus.div_ceil(RUNS);
            for case in shell.iter().chain(ISOLATION).skip(cpu.index() % share).step_by(share) {
                check(case).await;
            }
        }
        Stream::Isolation => {
            for case in ISOLATION {
                check(case).await;
            }
        }
        Stream::Attacks => {
            for case in ATTACKS.iter().skip(cpu.index()).step_by(cpus) {
                check(case).await;
            }
        }
    }
    is_right
}

async fn run_case(cpu: CpuId, case: &'static Case) -> Result<(), Problem> {
    let name = case.arguments.first().copied().unwrap_or_default();
    let console = Shared::new(Console::new(name, Records::Logged)).map_err(|_| Problem::OutOfMemory)?;
    program::run(cpu, case.arguments, console.clone(), case.ending).await?;
    let output = match case.output {
        Output::Text(text) => text.as_bytes(),
        Output::File(name) => file::find(name.as_bytes()).ok_or(Problem::NoFile)?.content,
    };
    if console.holds(output) { Ok(()) } else { Err(Problem::Output) }
}

/// Cases that run one after another.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Programs,
    Attacks,
    Isolation,
}

/// A case by its command line.
struct Name(&'static Case);

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (number, argument) in self.0.arguments.iter().enumerate() {
            write!(f, "{}{argument}", if number == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
