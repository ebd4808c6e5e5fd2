//! Gathers a run's records, and shows what comes as it comes.

use std::time::Duration;

use super::screen::Screen;
use super::topology;
use crate::run::record::{
    Absent, CpuCounters, DiscoveredTopology, Distribution, Failure, LeftOut, Line, Measurement, NodeCounters,
    Panic, Progress, Record, Running, TablePiece,
};
use crate::run::symbolize::Symbols;

/// A run's records so far.
pub(crate) struct Report<'a> {
    symbols: Option<&'a Symbols>,
    topology: Option<DiscoveredTopology>,
    running: Option<Running>,
    nodes: Vec<NodeCounters>,
    cpus: Vec<CpuCounters>,
    results: Vec<Measurement>,
    distributions: Vec<Distribution>,
    absent: Vec<Absent>,
    left_out: Vec<LeftOut>,
    failures: Vec<Failure>,
    backtraces: Vec<Vec<String>>,
    tables: Vec<TablePiece>,
    ended_ok: Option<bool>,
}

/// A run that is over.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) topology: Option<DiscoveredTopology>,
    pub(crate) nodes: Vec<NodeCounters>,
    pub(crate) cpus: Vec<CpuCounters>,
    pub(crate) results: Vec<Measurement>,
    pub(crate) distributions: Vec<Distribution>,
    /// Cases that the kernel has no system call for.
    pub(crate) absent: Vec<Absent>,
    /// What the kernel did not use of the machine.
    pub(crate) left_out: Vec<LeftOut>,
    /// None: the run succeeded.
    pub(crate) failures: Vec<Failure>,
    /// Symbolised, one line per function.
    pub(crate) backtraces: Vec<Vec<String>>,
    pub(crate) tables: Vec<TablePiece>,
    /// What was started, as one would type it.
    pub(crate) command: Option<String>,
    pub(crate) duration: Duration,
}

impl<'a> Report<'a> {
    /// An empty report. Without symbols, backtraces stay addresses.
    pub(crate) fn new(symbols: Option<&'a Symbols>) -> Self {
        Self {
            symbols,
            topology: None,
            running: None,
            nodes: Vec::new(),
            cpus: Vec::new(),
            results: Vec::new(),
            distributions: Vec::new(),
            absent: Vec::new(),
            left_out: Vec::new(),
            failures: Vec::new(),
            backtraces: Vec::new(),
            tables: Vec::new(),
            ended_ok: None,
        }
    }

    /// Takes one line of output.
    pub(crate) fn line(&mut self, line: &str, screen: &mut Screen) {
        match Line::parse(line) {
            Line::Log(text) => screen.line(&text),
            Line::Record(record) => self.record(*record, screen),
            Line::Malformed { line, reason } => {
                let failure = Failure::new(format!("a record that can't be read: {reason}"), line);
                self.failures.push(failure);
            }
        }
    }

    fn record(&mut self, record: Record, screen: &mut Screen) {
        match record {
            Record::Topology(topology) => {
                topology::render(&topology).iter().for_each(|line| screen.line(line));
                self.topology = Some(topology);
            }
            Record::Progress(progress) => screen.progress(&progress_line(&progress)),
            Record::Node(node) => self.nodes.push(node),
            Record::Cpu(cpu) => self.cpus.push(cpu),
            Record::Unresponsive(seen) => screen.line(&format!(
                "CPU {} did not answer generation {} and was reported after {} ms; others finished {} operations meanwhile",
                seen.cpu, seen.generation, seen.ms, seen.meanwhile
            )),
            // The log has said it already.
            Record::LeftOut(part) => self.left_out.push(part),
            Record::Running(running) => self.running = Some(running),
            Record::Result(result) => self.results.push(result),
            Record::Distribution(distribution) => self.distributions.push(distribution),
            Record::Absent(absent) => self.absent.push(absent),
            // The log has said it already.
            Record::Failure(failure) => self.failures.push(failure),
            Record::Panic(panic) => self.failures.push(self.panic_failure(&panic)),
            Record::Frames { addresses } => {
                let backtrace = match self.symbols {
                    Some(symbols) => symbols.backtrace(&addresses),
                    None => addresses,
                };
                self.backtrace("backtrace:", backtrace, screen);
            }
            Record::Leak { bytes, addresses } => {
                let function = self.symbols.and_then(|symbols| symbols.allocating_function(&addresses));
                let by = function.unwrap_or_else(|| addresses.join(" < "));
                let what = format!("heap: leak of {bytes} bytes, allocated by {by}");
                screen.line(&format!("FAILURE in heap: {what}"));
                self.failures.push(Failure::new(what, "heap"));
            }
            Record::Table(piece) => self.tables.push(piece),
            Record::End { ok } => self.ended_ok = Some(ok),
        }
    }

    /// Takes a backtrace that is symbolised already.
    pub(crate) fn backtrace(&mut self, title: &str, backtrace: Vec<String>, screen: &mut Screen) {
        screen.line(title);
        backtrace.iter().for_each(|line| screen.line(line));
        self.backtraces.push(backtrace);
    }

    /// A fault's place is an address.
    fn panic_failure(&self, panic: &Panic) -> Failure {
        let function = self.symbols.and_then(|symbols| symbols.function(&panic.location));
        let place = function.as_ref().unwrap_or(&panic.location);
        Failure::new(format!("panic: {}", panic.message), format!("{place}, CPU {}", panic.cpu))
    }

    /// The topology, once the kernel has told it.
    pub(crate) fn topology(&self) -> Option<&DiscoveredTopology> {
        self.topology.as_ref()
    }

    /// What ran once all CPUs were started, if the kernel told it.
    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Failures reported so far.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failures.iter()
    }

    /// What the last record said.
    pub(crate) fn ended_ok(&self) -> Option<bool> {
        self.ended_ok
    }

    /// The whole run, with failures that were seen from outside added.
    pub(crate) fn finish(mut self, seen_from_outside: Vec<Failure>, duration: Duration) -> Finished {
        self.failures.extend(seen_from_outside);
        self.nodes.sort_by_key(|node| node.node);
        self.cpus.sort_by_key(|cpu| cpu.cpu);
        Finished {
            topology: self.topology,
            nodes: self.nodes,
            cpus: self.cpus,
            results: self.results,
            distributions: self.distributions,
            absent: self.absent,
            left_out: self.left_out,
            failures: self.failures,
            backtraces: self.backtraces,
            tables: self.tables,
            command: None,
            duration,
        }
    }
}

fn progress_line(progress: &Progress) -> String {
    let mut line = format!("{:6.1} s  {} operations", progress.ms as f64 / 1000.0, progress.ops);
    for (name, value) in &progress.others {
        line.push_str(&format!("  {value} {}", name.replace('_', " ")));
    }
    line
}

impl Finished {
    /// Did nothing fail?
    pub(crate) fn succeeded(&self) -> bool {
        self.failures.is_empty()
    }

    /// Operations by the scenario's own count, for one-line summaries.
    pub(crate) fn frames_allocated(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.alloc_local + cpu.alloc_remote).sum()
    }

    pub(crate) fn shootdowns(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.shootdowns).sum()
    }
}
