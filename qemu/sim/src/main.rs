//! The program behind `cargo xtask sim`: a scenario on a simulated machine, in a process of its own, so that one
//! that hangs or crashes can be told and ended.

mod job;

use std::fmt;
use std::num::NonZeroU16;
use std::process::ExitCode;

use topomem::frames::ZoneWatermarks;
use topomem::sim::{Blueprint, Delivery, Node};
use topomem::{CpuId, PagingFeatures, TlbFeatures};
use topomem_stress::sim::{self, Options, RunError};
use topomem_stress::{Break, Limit, SCENARIOS, Scenario};

use job::{FAILURES_FOUND, SUCCESS, SimJob, SimNode};

/// Fewer than the scenario has spaces, so that they are reused.
const ASIDS: usize = 2;
/// Pages per instruction, as many as AMD's Zen 3 has.
const BROADCAST: NonZeroU16 = NonZeroU16::new(8).unwrap();
/// Interrupts arrive up to so many of the receiver's memory accesses late.
const LATEST: u32 = 64;

/// Why there was no run.
#[derive(Debug)]
enum Error {
    NoJob,
    Job(serde_json::Error),
    Cpu(u32),
    Scenario(String),
    Fault(String),
    Tlb(String),
    Run(RunError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoJob => write!(f, "started by hand: use cargo xtask sim"),
            Self::Job(error) => write!(f, "the job can't be read: {error}"),
            Self::Cpu(number) => write!(f, "there can be no CPU {number}"),
            Self::Scenario(name) => {
                let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
                write!(f, "no scenario is called {name}; there are {}", names.join(", "))
            }
            Self::Fault(name) => {
                write!(f, "no fault is called {name}; there are {}", Break::ALL.map(Break::name).join(", "))
            }
            Self::Tlb(name) => write!(f, "no features of TLBs are called {name}"),
            Self::Run(error) => error.fmt(f),
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::from(SUCCESS),
        Ok(false) => ExitCode::from(FAILURES_FOUND),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Did the run find nothing wrong?
fn run() -> Result<bool, Error> {
    let argument = std::env::args().nth(1).ok_or(Error::NoJob)?;
    let job: SimJob = serde_json::from_str(&argument).map_err(Error::Job)?;
    let report = sim::run(&options(job)?, |record| println!("@@{record}")).map_err(Error::Run)?;
    Ok(report.is_ok())
}

fn options(job: SimJob) -> Result<Options, Error> {
    let nodes = job.nodes.iter().map(node).collect::<Result<_, _>>()?;
    let scenario = Scenario::named(&job.scenario).ok_or(Error::Scenario(job.scenario))?;
    let fault = match job.fault {
        Some(name) => Some(Break::named(&name).ok_or(Error::Fault(name))?),
        None => None,
    };
    let tlb = match job.tlb {
        Some(name) => tlb(&name).ok_or(Error::Tlb(name))?,
        None => TlbFeatures::NONE,
    };
    let limit = match scenario.limit {
        Limit::Milliseconds(_) => Some(Limit::Milliseconds(job.milliseconds)),
        Limit::Operations(_) => None,
    };
    Ok(Options {
        machine: Blueprint {
            nodes,
            distances: job.distances,
            tlb,
            paging: PagingFeatures::BASIC.with_giant_pages(),
            watermarks: ZoneWatermarks::InProportion,
        },
        delivery: Delivery { longest: LATEST, seed: job.seed },
        scenario,
        limit,
        seed: job.seed,
        fault,
    })
}

/// The features called `name`.
fn tlb(name: &str) -> Option<TlbFeatures> {
    let tagged = TlbFeatures::NONE.with_asids(ASIDS);
    Some(match name {
        "none" => TlbFeatures::NONE,
        "pcid" => tagged,
        "invpcid" => tagged.with_selective(),
        "invlpgb" => tagged.with_selective().with_broadcast(BROADCAST),
        _ => return None,
    })
}

fn node(node: &SimNode) -> Result<Node, Error> {
    let cpu = |&number: &u32| CpuId::new(number as usize).ok_or(Error::Cpu(number));
    Ok(Node {
        cpus: node.cpus.iter().map(cpu).collect::<Result<_, _>>()?,
        ranges: node.ranges.iter().map(|&(start, end)| start..end).collect(),
    })
}
