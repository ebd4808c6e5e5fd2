//! A machine as QEMU's arguments.

use super::firmware;
use super::size::Size;
use super::spec::{Hmat, TopologySpec};

/// QEMU's arguments for a machine, and the firmware tables that it needs as files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MachineArguments {
    pub(crate) arguments: Vec<String>,
    /// The bodies of ACPI tables of our own; the session writes them to files.
    pub(crate) tables: Vec<FirmwareTable>,
}

/// An ACPI table that QEMU is to add to its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FirmwareTable {
    pub(crate) signature: &'static str,
    pub(crate) revision: u8,
    /// Everything after the 36 bytes of header, which QEMU writes.
    pub(crate) body: Vec<u8>,
}

/// The host gives memory as the guest touches it: the guest may have more than the host.
const UNRESERVED: &str = "reserve=off";

/// The arguments that describe the machine `spec`.
pub(crate) fn machine_arguments(spec: &TopologySpec) -> MachineArguments {
    let mut arguments = Vec::new();
    let mut tables = Vec::new();
    let mut push = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    push("-M", machine(spec));
    push("-smp", spec.cpu_count().to_string());
    push("-m", memory(spec));
    if spec.is_interleaved() || !spec.has_numa_tables() {
        push("-object", format!("memory-backend-ram,id=ram,size={},{UNRESERVED}", bytes(spec.memory())));
        push("-machine", "memory-backend=ram".to_owned());
    }
    if spec.is_interleaved() {
        // QEMU gives each node one range of memory. Without any NUMA option it writes no SRAT and no SLIT, so
        // that ours are the only ones.
        tables = vec![firmware::srat(spec), firmware::slit(spec)];
    } else if spec.has_numa_tables() {
        numa_nodes(spec, &mut push);
        distances(spec, &mut push);
        if let Some(hmat) = &spec.hmat {
            memory_attributes(hmat, &mut push);
        }
    }
    for (index, dimm) in spec.hotplug.iter().flat_map(|hotplug| &hotplug.dimms).enumerate() {
        push("-object", format!("memory-backend-ram,id=dimm{index},size={},{UNRESERVED}", bytes(dimm.size)));
        push("-device", format!("pc-dimm,id=module{index},memdev=dimm{index},node={}", dimm.node));
    }
    for index in 0..spec.cxl.len() {
        // Bus numbers far from each other and from those that the firmware hands out.
        let bus = 64 + 32 * index;
        push("-device", format!("pxb-cxl,bus_nr={bus},bus=pcie.0,id=cxl{index}"));
    }
    MachineArguments { arguments, tables }
}

fn machine(spec: &TopologySpec) -> String {
    let mut machine = spec.machine.clone();
    if spec.hmat.is_some() {
        machine.push_str(",hmat=on");
    }
    if !spec.cxl.is_empty() {
        machine.push_str(",cxl=on");
    }
    for (index, window) in spec.cxl.iter().enumerate() {
        let size = bytes(window.size);
        machine.push_str(&format!(",cxl-fmw.{index}.targets.0=cxl{index},cxl-fmw.{index}.size={size}"));
    }
    machine
}

fn memory(spec: &TopologySpec) -> String {
    let size = bytes(spec.memory());
    match &spec.hotplug {
        Some(hotplug) => format!("{size},slots={},maxmem={}", hotplug.slots, bytes(hotplug.maximum)),
        None => size,
    }
}

/// `-m` and `size=` take bytes with the suffix B.
fn bytes(size: Size) -> String {
    format!("{}B", size.bytes())
}

fn numa_nodes(spec: &TopologySpec, push: &mut impl FnMut(&str, String)) {
    for (index, node) in spec.nodes.iter().enumerate() {
        let mut value = format!("node,nodeid={index}");
        if let Some(&size) = node.memory.first() {
            push("-object", format!("memory-backend-ram,id=ram{index},size={},{UNRESERVED}", bytes(size)));
            value.push_str(&format!(",memdev=ram{index}"));
        }
        for (first, last) in runs(&node.cpus) {
            value.push_str(&format!(",cpus={first}-{last}"));
        }
        if spec.hmat.is_some() {
            value.push_str(&format!(",initiator={}", node.initiator.unwrap_or(index)));
        }
        push("-numa", value);
    }
}

/// Runs of consecutive numbers, as first and last.
fn runs(cpus: &[u32]) -> Vec<(u32, u32)> {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for cpu in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    runs
}

/// QEMU wants either no distance or, where they differ by direction, all of them.
fn distances(spec: &TopologySpec, push: &mut impl FnMut(&str, String)) {
    if spec.distances == TopologySpec::default_distances(spec.nodes.len()) {
        return;
    }
    for (from, row) in spec.distances.iter().enumerate() {
        for (to, distance) in row.iter().enumerate() {
            push("-numa", format!("dist,src={from},dst={to},val={distance}"));
        }
    }
}

fn memory_attributes(hmat: &Hmat, push: &mut impl FnMut(&str, String)) {
    for entry in &hmat.latency {
        push(
            "-numa",
            format!(
                "hmat-lb,initiator={},target={},hierarchy=memory,data-type=access-latency,latency={}",
                entry.initiator, entry.target, entry.nanoseconds
            ),
        );
    }
    for entry in &hmat.bandwidth {
        push(
            "-numa",
            format!(
                "hmat-lb,initiator={},target={},hierarchy=memory,data-type=access-bandwidth,bandwidth={}M",
                entry.initiator, entry.target, entry.megabytes_per_second
            ),
        );
    }
    for cache in &hmat.caches {
        push(
            "-numa",
            format!(
                "hmat-cache,node-id={},size={},level={},associativity=direct,policy=write-back,line={}",
                cache.node,
                bytes(cache.size),
                cache.level,
                cache.line
            ),
        );
    }
}
