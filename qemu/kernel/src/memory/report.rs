//! The topology, for people and for the runner.

use core::fmt;

use topomem_numa::{NodeId, Topology};

use crate::{log, record};

/// Logs the topology, and records it with each node's free frames as `free` tells.
pub fn topology(topology: &Topology, free: impl Fn(NodeId) -> u64) {
    log!("topology:\n{topology}");
    record!("{}", Record(topology, free));
}

struct Record<'a, F>(&'a Topology, F);

impl<F: Fn(NodeId) -> u64> fmt::Display for Record<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record(topology, free) = self;
        f.write_str("{\"t\":\"topology\",\"nodes\":[")?;
        for (index, node) in topology.nodes().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let ranges = || topology.memory_ranges().iter().filter(move |range| range.node == node);
            write!(f, "{{\"node\":{},\"proximity\":{},", node.index(), topology.proximity(node))?;
            write!(f, "\"cpus\":[{}],", List(|| topology.cpus_of(node).iter().map(|cpu| cpu.index())))?;
            write!(
                f,
                "\"ranges\":[{}],",
                List(|| ranges().map(|of| Pair(of.range.start.as_u64(), of.range.end.as_u64())))
            )?;
            write!(f, "\"kinds\":[{}],", List(|| ranges().map(|of| crate::log::Json(of.kind))))?;
            write!(f, "\"free_frames\":{}}}", free(node))?;
        }
        f.write_str("],\"distances\":[")?;
        write!(f, "{}", List(|| topology.nodes().map(|from| Row(topology, from))))?;
        f.write_str("]}")
    }
}

/// The items of an iterator, with commas between.
struct List<F>(F);

impl<F: Fn() -> I, I: Iterator<Item: fmt::Display>> fmt::Display for List<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in (self.0)().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{item}")?;
        }
        Ok(())
    }
}

struct Pair(u64, u64);

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{}]", self.0, self.1)
    }
}

struct Row<'a>(&'a Topology, NodeId);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row(topology, from) = self;
        write!(f, "[{}]", List(|| topology.nodes().map(|to| topology.distance(*from, to).get())))
    }
}
