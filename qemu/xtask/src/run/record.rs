//! The machine-readable lines among the kernel's serial output: `@@` and one JSON object.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a record's line starts with.
const MARK: &str = "@@";

/// One record.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(crate) enum Record {
    Topology(DiscoveredTopology),
    Progress(Progress),
    Node(NodeCounters),
    Cpu(CpuCounters),
    Unresponsive(Unresponsive),
    LeftOut(LeftOut),
    Running(Running),
    Result(Measurement),
    Distribution(Distribution),
    Absent(Absent),
    Failure(Failure),
    Panic(Panic),
    /// A backtrace, innermost first.
    Frames {
        addresses: Vec<String>,
    },
    /// Memory from the global allocator that nobody frees, and how its allocation was called, innermost first.
    Leak {
        bytes: u64,
        addresses: Vec<String>,
    },
    Table(TablePiece),
    /// The last record.
    End {
        ok: bool,
    },
}

/// What runs once all CPUs were started.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Running {
    pub(crate) cpus: u32,
    /// How the local APICs are driven.
    pub(crate) apic: String,
}

/// The topology that the kernel made of the firmware tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DiscoveredTopology {
    pub(crate) nodes: Vec<DiscoveredNode>,
    #[serde(default)]
    pub(crate) distances: Vec<Vec<u8>>,
    /// From node, to node, picoseconds: by the HMAT.
    #[serde(default)]
    pub(crate) latencies: Vec<(usize, usize, u32)>,
    /// From node, to node, megabytes per second: by the HMAT.
    #[serde(default)]
    pub(crate) bandwidths: Vec<(usize, usize, u32)>,
    #[serde(default)]
    pub(crate) caches: Vec<DiscoveredCache>,
}

/// A memory-side cache as discovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiscoveredCache {
    pub(crate) node: usize,
    pub(crate) bytes: u64,
    pub(crate) level: u8,
    pub(crate) line: u16,
}

/// A node as discovered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DiscoveredNode {
    pub(crate) node: usize,
    #[serde(default)]
    pub(crate) proximity: u32,
    #[serde(default)]
    pub(crate) cpus: Vec<u32>,
    /// Physical addresses, start and end, end exclusive.
    #[serde(default)]
    pub(crate) ranges: Vec<(u64, u64)>,
    /// What each of the ranges is.
    #[serde(default)]
    pub(crate) kinds: Vec<String>,
    #[serde(default)]
    pub(crate) free_frames: u64,
    /// Managed frames of the zones DMA, DMA32 and Normal.
    #[serde(default)]
    pub(crate) zones: Vec<u64>,
    /// The parts of the bookkeeping that is the node's: what, and its physical addresses, end exclusive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) bookkeeping: Vec<(String, u64, u64)>,
}

/// How far the scenario is: counters that go up, named by the scenario.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Progress {
    pub(crate) ms: u64,
    #[serde(default)]
    pub(crate) ops: u64,
    #[serde(flatten)]
    pub(crate) others: Map<String, Value>,
}

/// One node's frames at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeCounters {
    pub(crate) node: usize,
    /// Frames given to this node's own CPUs.
    #[serde(default)]
    pub(crate) local: u64,
    /// Frames given to other nodes' CPUs.
    #[serde(default)]
    pub(crate) remote: u64,
    #[serde(default)]
    pub(crate) free: u64,
    #[serde(default)]
    pub(crate) total: u64,
    #[serde(flatten)]
    pub(crate) others: Map<String, Value>,
}

/// What one CPU did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CpuCounters {
    pub(crate) cpu: u32,
    pub(crate) node: usize,
    pub(crate) alloc_local: u64,
    pub(crate) alloc_remote: u64,
    pub(crate) magazine_hits: u64,
    pub(crate) magazine_misses: u64,
    pub(crate) absences: u64,
    pub(crate) shootdowns: u64,
    pub(crate) ipis_sent: u64,
    pub(crate) ipis_received: u64,
    pub(crate) flush_page: u64,
    pub(crate) flush_full: u64,
    #[serde(flatten)]
    pub(crate) others: Map<String, Value>,
}

/// One result of a measurement, as the report's `results` carry it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) suite: String,
    pub(crate) case: String,
    pub(crate) subject: String,
    pub(crate) cpus: u32,
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) n: u64,
}

/// How a case's samples of one boot are spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Distribution {
    pub(crate) case: String,
    pub(crate) subject: String,
    pub(crate) cpus: u32,
    pub(crate) unit: String,
    /// Samples.
    pub(crate) n: u64,
    /// From the first to the 99th.
    pub(crate) percentiles: Vec<f64>,
}

/// A case that a kernel has no system call for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Absent {
    pub(crate) case: String,
    pub(crate) subject: String,
    pub(crate) call: String,
}

/// Something that went wrong, as the report's `failures` carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) what: String,
    #[serde(rename = "where")]
    pub(crate) place: String,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, place: impl Into<String>) -> Self {
        Self { what: what.into(), place: place.into() }
    }
}

/// A CPU answered no shootdown for a while, as the scenario wanted it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Unresponsive {
    pub(crate) cpu: u32,
    /// What it had not acknowledged when it was reported.
    pub(crate) generation: u64,
    /// How long it had been waited for by then.
    pub(crate) ms: u64,
    /// Operations that others finished while it was unresponsive.
    pub(crate) meanwhile: u64,
}

/// A part of the machine that the kernel does not use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) what: String,
    pub(crate) why: String,
}

/// The kernel gave up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Panic {
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) location: String,
    #[serde(default)]
    pub(crate) cpu: u32,
}

/// Some bytes of a firmware table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct TablePiece {
    pub(crate) signature: String,
    pub(crate) offset: usize,
    pub(crate) hex: String,
    /// Where the table lies in physical memory, when the kernel says so.
    #[serde(default)]
    pub(crate) address: u64,
}

/// What a line of serial output is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Line {
    /// For people.
    Log(String),
    Record(Box<Record>),
    /// It starts like a record, but is none.
    Malformed {
        line: String,
        reason: String,
    },
}

impl Line {
    /// Tells records from log lines.
    pub(crate) fn parse(line: &str) -> Self {
        let Some(json) = line.strip_prefix(MARK) else { return Self::Log(line.to_owned()) };
        match serde_json::from_str(json) {
            Ok(record) => Self::Record(Box::new(record)),
            Err(error) => Self::Malformed { line: line.to_owned(), reason: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(line: &str) -> Record {
        match Line::parse(line) {
            Line::Record(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parses_each_kind_of_record() {
        let topology = record(
            r#"@@{"t":"topology","nodes":[{"node":0,"proximity":3,"cpus":[0,1],"ranges":[[0,655360],[1048576,2097152]],"kinds":["conventional","conventional"],"free_frames":9}],"distances":[[10]]}"#,
        );
        let Record::Topology(topology) = topology else { panic!("{topology:?}") };
        assert_eq!(topology.nodes[0].ranges[1], (1 << 20, 2 << 20));
        assert_eq!(topology.distances, [[10]]);

        let progress = record(r#"@@{"t":"progress","ms":500,"ops":7,"maps":3}"#);
        let Record::Progress(progress) = progress else { panic!("{progress:?}") };
        assert_eq!((progress.ms, progress.ops, progress.others["maps"].as_u64()), (500, 7, Some(3)));

        let cpu = record(r#"@@{"t":"cpu","cpu":3,"node":1,"alloc_local":5,"nested":1}"#);
        let Record::Cpu(cpu) = cpu else { panic!("{cpu:?}") };
        assert_eq!((cpu.cpu, cpu.node, cpu.alloc_local, cpu.ipis_sent), (3, 1, 5, 0));

        let distribution = record(
            r#"@@{"t":"distribution","case":"unmap_wait","subject":"linux","cpus":2,"unit":"us","n":9,"percentiles":[1,2.5]}"#,
        );
        let Record::Distribution(distribution) = distribution else { panic!("{distribution:?}") };
        assert_eq!((distribution.cpus, distribution.percentiles), (2, vec![1.0, 2.5]));

        assert_eq!(
            record(r#"@@{"t":"failure","what":"stale translation","where":"cpu 1"}"#),
            Record::Failure(Failure::new("stale translation", "cpu 1"))
        );
        let left_out = record(r#"@@{"t":"left_out","what":"cpu5","why":"APIC id 256"}"#);
        let expected = LeftOut { what: "cpu5".to_owned(), why: "APIC id 256".to_owned() };
        assert_eq!(left_out, Record::LeftOut(expected));
        assert_eq!(
            record(r#"@@{"t":"frames","addresses":["0xffffffff80001000"]}"#),
            Record::Frames { addresses: vec!["0xffffffff80001000".to_owned()] }
        );
        assert_eq!(
            record(r#"@@{"t":"leak","bytes":136,"addresses":["0xffffffff80001000"]}"#),
            Record::Leak { bytes: 136, addresses: vec!["0xffffffff80001000".to_owned()] }
        );
        assert_eq!(record(r#"@@{"t":"end","ok":true}"#), Record::End { ok: true });
    }

    #[test]
    fn tells_log_lines_and_broken_records_apart() {
        assert_eq!(Line::parse("hello @@{"), Line::Log("hello @@{".to_owned()));
        for broken in ["@@", "@@{\"t\":\"end\"}", "@@{\"t\":\"unheard of\"}", "@@{\"t\":\"end\",\"ok\":tr"] {
            assert!(matches!(Line::parse(broken), Line::Malformed { .. }), "{broken}");
        }
    }
}
