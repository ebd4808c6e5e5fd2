//! What a run did, per node and per CPU, and what failed.

use super::collect::Finished;
use super::table::{Table, grouped, percent};
use crate::run::record::CpuCounters;

/// The summary, as lines.
pub(crate) fn summary(run: &Finished) -> Vec<String> {
    let mut lines = Vec::new();
    if !run.nodes.is_empty() {
        lines.push("per node:".to_owned());
        lines.extend(nodes(run).lines());
    }
    if !run.cpus.is_empty() {
        lines.push("per CPU:".to_owned());
        lines.extend(cpus(run).lines());
    }
    if !run.results.is_empty() {
        lines.push("results:".to_owned());
        lines.extend(results(run).lines());
    }
    for part in &run.left_out {
        lines.push(format!("not used: {}: {}", part.what, part.why));
    }
    for failure in &run.failures {
        lines.push(format!("FAILED: {}", failure.what));
        lines.push(format!("    where: {}", failure.place));
    }
    if let Some(command) = run.command.as_ref().filter(|_| !run.succeeded()) {
        lines.push(format!("command: {command}"));
    }
    lines
}

fn nodes(run: &Finished) -> Table {
    let mut table = Table::new(["node", "frames local", "remote", "local", "free", "total"]);
    for node in &run.nodes {
        table.row(vec![
            node.node.to_string(),
            grouped(node.local),
            grouped(node.remote),
            percent(node.local, node.local + node.remote),
            grouped(node.free),
            grouped(node.total),
        ]);
    }
    table
}

fn cpus(run: &Finished) -> Table {
    let mut table = Table::new([
        "CPU",
        "node",
        "frames local",
        "remote",
        "magazine hits",
        "absences",
        "shootdowns",
        "IPIs sent",
        "received",
        "page flushes",
        "full",
    ]);
    let row = |name: String, node: String, cpu: &CpuCounters| {
        vec![
            name,
            node,
            grouped(cpu.alloc_local),
            grouped(cpu.alloc_remote),
            percent(cpu.magazine_hits, cpu.magazine_hits + cpu.magazine_misses),
            grouped(cpu.absences),
            grouped(cpu.shootdowns),
            grouped(cpu.ipis_sent),
            grouped(cpu.ipis_received),
            grouped(cpu.flush_page),
            grouped(cpu.flush_full),
        ]
    };
    let mut all = CpuCounters::default();
    for cpu in &run.cpus {
        table.row(row(cpu.cpu.to_string(), cpu.node.to_string(), cpu));
        all.alloc_local += cpu.alloc_local;
        all.alloc_remote += cpu.alloc_remote;
        all.magazine_hits += cpu.magazine_hits;
        all.magazine_misses += cpu.magazine_misses;
        all.absences += cpu.absences;
        all.shootdowns += cpu.shootdowns;
        all.ipis_sent += cpu.ipis_sent;
        all.ipis_received += cpu.ipis_received;
        all.flush_page += cpu.flush_page;
        all.flush_full += cpu.flush_full;
    }
    table.row(row("all".to_owned(), String::new(), &all));
    table
}

fn results(run: &Finished) -> Table {
    let mut table = Table::new(["suite", "case", "subject", "CPUs", "median", "low", "high", "n", "unit"]);
    for result in &run.results {
        table.row(vec![
            result.suite.clone(),
            result.case.clone(),
            result.subject.clone(),
            result.cpus.to_string(),
            format!("{:.1}", result.median),
            format!("{:.1}", result.low),
            format!("{:.1}", result.high),
            result.n.to_string(),
            result.unit.clone(),
        ]);
    }
    table
}
