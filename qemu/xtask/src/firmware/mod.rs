//! `cargo xtask topology`: what the kernel would make of a machine's firmware tables.

mod input;
mod output;
mod text;

use std::path::PathBuf;

use topomem_numa::tables::{CpuState, Madt, MadtEntry};
use topomem_numa::{ApicId, Diagnostic, MapFull, MemoryMap, MemoryRange, Topology};

use crate::cli::TopologyArgs;
use crate::error::Error;
use crate::report::{self, Document};
use crate::run::description;
use input::Input;

/// Why a machine's files say nothing.
#[derive(Debug)]
pub(crate) enum FirmwareError {
    /// A line of an acpidump is not one.
    Line { path: PathBuf, number: usize, reason: &'static str },
    /// There is no MADT, SRAT, SLIT, HMAT or CEDT in any of the files.
    NoTables,
    /// The memory map has more ranges than the kernel has room for.
    MapFull(MapFull),
}

impl std::fmt::Display for FirmwareError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line { path, number, reason } => write!(f, "{}:{number}: {reason}", path.display()),
            Self::NoTables => f.write_str("these files have no MADT (APIC), SRAT, SLIT, HMAT or CEDT"),
            Self::MapFull(full) => write!(f, "the memory map is too long: {full}"),
        }
    }
}

/// What the tables of one machine say.
#[derive(Debug)]
struct Discovery {
    topology: Box<Topology>,
    diagnostics: Vec<Diagnostic>,
    /// What of the memory map may be handed out, where there is a map.
    free: Option<Vec<topomem_numa::Piece>>,
}

/// Reads the tables of one machine, prints its topology, and writes the report if one is asked for.
pub(crate) fn topology(arguments: &TopologyArgs) -> Result<bool, Error> {
    let input = Input::read(&arguments.paths)?;
    let discovery = discover(&input).map_err(Error::Firmware)?;
    output::lines(&discovery, &input).iter().for_each(|line| println!("{line}"));
    if let Some(path) = &arguments.json {
        let mut run = description::environment("topology");
        run.extend(output::describe(&discovery).map_err(Error::Json)?);
        report::write(path, &Document::of_results(run, Vec::new(), Vec::new()))?;
        println!("report: {}", path.display());
    }
    Ok(true)
}

fn discover(input: &Input) -> Result<Discovery, FirmwareError> {
    let tables = input.tables();
    let mut topology = Box::new(Topology::new());
    let mut diagnostics = Vec::new();
    let boot = boot_cpu(tables.madt).unwrap_or(ApicId(0));
    let memory = |words| Some(Box::leak(Box::new_uninit_slice(words)));
    topology.discover_with(memory, &tables, boot, &mut |diagnostic| diagnostics.push(diagnostic));
    let mut free = None;
    if !input.usable.is_empty() {
        let mut map = Box::new(MemoryMap::new());
        for &(start, end) in &input.usable {
            if let Some(range) = MemoryRange::from_bounds(start, end.min(1 << 52)) {
                map.add_usable(range).map_err(FirmwareError::MapFull)?;
            }
        }
        free = Some(map.pieces(&topology).collect());
    }
    Ok(Discovery { topology, diagnostics, free })
}

/// The first enabled CPU: firmware is told to list the one that it runs on first.
fn boot_cpu(madt: Option<&[u8]>) -> Option<ApicId> {
    Madt::parse(madt?).ok()?.entries().find_map(|entry| match entry {
        Ok(MadtEntry::Cpu { apic_id, state: CpuState::Enabled, .. }) => Some(apic_id),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    /// The tables of a machine of QEMU's, as acpidump writes them.
    fn machine(name: &str) -> Discovery {
        let folder = workspace::root().join("tests/tables").join(name);
        discover(&Input::read(&[folder]).unwrap()).unwrap()
    }

    #[test]
    fn reads_a_folder_of_dumps() {
        let found = machine("hmat-two-initiators");
        assert_eq!((found.topology.node_count(), found.topology.cpus().len()), (3, 4));
        assert_eq!(found.diagnostics, []);
        assert_eq!(machine("interleaved-nvdimms").diagnostics.len(), 2);
        assert!(found.free.is_none());
    }

    #[test]
    fn reports_what_the_kernel_would_see() {
        let found = machine("cxl-windows");
        let described = output::describe(&found).unwrap();
        assert_eq!(described["topology"]["nodes"][2]["kinds"][0], "CxlWindow");
        assert_eq!(described["topology"]["distances"][0], serde_json::json!([10, 20, 20, 20]));
        assert_eq!(described["apic_ids"], serde_json::json!([0, 1]));
        let hmat = output::describe(&machine("hmat")).unwrap();
        assert_eq!(hmat["topology"]["latencies"], serde_json::json!([[0, 0, 5000], [0, 1, 10000]]));
        assert_eq!(hmat["topology"]["bandwidths"], serde_json::json!([[0, 0, 200], [0, 1, 100]]));
        assert_eq!(hmat["topology"]["caches"][1]["line"], 128);
        let nvdimms = output::describe(&machine("interleaved-nvdimms")).unwrap();
        assert!(nvdimms["diagnostics"][0].as_str().unwrap().contains("domains 0 and 1 both claim"));
    }

    /// The memory map says how much of each node's memory there is.
    #[test]
    fn counts_the_memory_map_by_node() {
        let folder = workspace::root().join("tests/tables/two-nodes");
        let mut input = Input::read(&[folder]).unwrap();
        input.usable = vec![(0, 0x3000_0020), (0x3000_0020, 0x3fff_0000)];
        let found = discover(&input).unwrap();
        let described = output::describe(&found).unwrap();
        let frames = |node: usize| described["topology"]["nodes"][node]["free_frames"].as_u64().unwrap();
        // All but the first 1 MiB and the last 64 KiB.
        assert_eq!((frames(0), frames(1)), ((0x2000_0000 - 0x10_0000) / 4096, 0x1fff_0000 / 4096));
        let lines = output::lines(&found, &input).join("\n");
        assert!(lines.contains("511 MiB") && lines.contains("no diagnostics"), "{lines}");
    }

    #[test]
    fn a_folder_without_tables_is_an_error() {
        let folder = workspace::root().join("tests/tables");
        assert!(matches!(Input::read(&[folder]), Err(Error::Firmware(FirmwareError::NoTables))));
        let nowhere = workspace::root().join("tests/no-such-tables");
        assert!(matches!(Input::read(&[nowhere]), Err(Error::File { .. })));
    }
}
