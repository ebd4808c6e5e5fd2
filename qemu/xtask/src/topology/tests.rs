//! Machines from files and options, and QEMU's arguments for them.

use clap::Parser;

use super::error::SpecError;
use super::file::parse;
use super::firmware::ranges;
use super::options::MachineOptions;
use super::qemu_args::machine_arguments;
use super::size::Size;
use super::spec::{MAX_CPUS, TopologySpec};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    machine: MachineOptions,
}

fn options(line: &str) -> Result<TopologySpec, SpecError> {
    Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace())).unwrap().machine.even_spec()
}

fn spec_error(text: &str) -> SpecError {
    *parse(text).unwrap_err().downcast::<SpecError>().unwrap()
}

fn joined(spec: &TopologySpec) -> String {
    machine_arguments(spec).arguments.join(" ")
}

#[test]
fn spreads_cpus_and_memory_evenly() {
    let spec = options("--nodes 3 --cpus 4 --memory 1G").unwrap();
    assert_eq!(
        spec.nodes.iter().map(|node| node.cpus.clone()).collect::<Vec<_>>(),
        [vec![0, 1], vec![2], vec![3]]
    );
    assert_eq!(spec.memory(), Size::from_mib(1024));
    let sparse = options("--nodes 4 --cpus 2").unwrap();
    assert_eq!(sparse.nodes.iter().map(|node| node.cpus.len()).collect::<Vec<_>>(), [1, 0, 1, 0]);
}

#[test]
fn refuses_options_that_make_no_machine() {
    assert_eq!(options("--nodes 0"), Err(SpecError::NodeCount(0)));
    assert_eq!(options("--nodes 129"), Err(SpecError::NodeCount(129)));
    assert_eq!(options("--cpus 0"), Err(SpecError::CpuCount(0)));
    assert_eq!(options(&format!("--cpus {}", MAX_CPUS + 1)), Err(SpecError::CpuCount(MAX_CPUS + 1)));
    assert_eq!(options("--memory 16M"), Err(SpecError::TooLittleMemory(Size::from_mib(16))));
    let unknown = SpecError::UnknownNode { node: 2, nodes: 2 };
    assert_eq!(options("--distance 0,2=20"), Err(unknown));
    assert_eq!(options("--distance 0,1=9"), Err(SpecError::Distance { from: 0, to: 1, distance: 9 }));
    assert_eq!(options("--distance 1,1=20"), Err(SpecError::Distance { from: 1, to: 1, distance: 20 }));
}

#[test]
fn distances_hold_both_ways_unless_both_are_given() {
    assert_eq!(options("--distance 0,1=21").unwrap().distances, [[10, 21], [21, 10]]);
    assert_eq!(options("--distance 0,1=21 --distance 1,0=31").unwrap().distances, [[10, 21], [31, 10]]);
}

#[test]
fn qemu_gets_nodes_memory_and_distances() {
    let arguments = joined(&options("--nodes 2 --cpus 4 --memory 1G --distance 0,1=21").unwrap());
    assert!(arguments.starts_with("-M q35 -smp 4 -m 1073741824B "), "{arguments}");
    for part in [
        "-object memory-backend-ram,id=ram1,size=536870912B,reserve=off",
        "-numa node,nodeid=0,memdev=ram0,cpus=0-1",
        "-numa node,nodeid=1,memdev=ram1,cpus=2-3",
        "-numa dist,src=0,dst=1,val=21",
        "-numa dist,src=1,dst=0,val=21",
    ] {
        assert!(arguments.contains(part), "{part} not in {arguments}");
    }
}

#[test]
fn one_node_needs_no_numa_tables() {
    assert!(!joined(&options("--nodes 1 --cpus 4").unwrap()).contains("-numa"));
}

#[test]
fn nodes_without_memory_and_without_cpus() {
    let spec = parse(
        "[[node]]\ncpus = [0, 2]\nmemory = '128M'\n[[node]]\ncpus = [1]\n[[node]]\nmemory = '64M'\n\
         [[distances]]\nfrom = 0\nto = 2\ndistance = 17",
    )
    .unwrap();
    let arguments = joined(&spec);
    assert!(arguments.contains("node,nodeid=0,memdev=ram0,cpus=0-0,cpus=2-2"), "{arguments}");
    assert!(arguments.contains("-numa node,nodeid=1,cpus=1-1"), "{arguments}");
    assert!(arguments.contains("node,nodeid=2,memdev=ram2 "), "{arguments}");
    assert_eq!(spec.distances[2][0], 17);
}

#[test]
fn refuses_files_that_describe_no_machine() {
    let node = "[[node]]\ncpus = [0]\nmemory = '128M'\n";
    assert_eq!(spec_error("node = [{ memory = '128M' }]"), SpecError::CpuCount(0));
    assert_eq!(spec_error(&format!("{node}[[node]]")), SpecError::EmptyNode(1));
    let twice = format!("{node}[[node]]\ncpus = [0, 1]");
    assert_eq!(spec_error(&twice), SpecError::CpuTwice { cpu: 0, first: 0, second: 1 });
    let gap = "[[node]]\ncpus = [0, 2]\nmemory = '128M'";
    assert_eq!(spec_error(gap), SpecError::CpuNumber { node: 0, cpu: 2, count: 2 });
    let matrix = format!("distances = [[10, 20]]\n{node}");
    assert_eq!(spec_error(&matrix), SpecError::DistanceMatrix { nodes: 1 });
    let dimm =
        format!("{node}[hotplug]\nmaximum = '256M'\nslots = 1\n[[hotplug.dimm]]\nnode = 0\nsize = '256M'");
    let needed = Size::from_mib(384);
    assert_eq!(spec_error(&dimm), SpecError::MaximumMemory { maximum: Size::from_mib(256), needed });
    let hmat = format!("{node}[[node]]\nmemory = '64M'\n[hmat]");
    assert_eq!(spec_error(&hmat), SpecError::Initiator { node: 1, initiator: 1 });
    let cxl = format!("{node}[[cxl]]\nsize = '100M'");
    assert_eq!(spec_error(&cxl), SpecError::CxlWindowSize(Size::from_mib(100)));
    for unknown in ["colour = 1\n", "[[node]]\ncpu = [0]\n", "[hmat]\nspeed = 1\n"] {
        assert!(parse(&format!("{unknown}{node}")).is_err(), "{unknown}");
    }
}

#[test]
fn heterogeneous_memory_and_cxl() {
    let spec = parse(
        "[[node]]\ncpus = [0]\nmemory = '128M'\n[[node]]\nmemory = '128M'\ninitiator = 0\n\
         [[hmat.latency]]\ninitiator = 0\ntarget = 1\nnanoseconds = 300\n\
         [[hmat.bandwidth]]\ninitiator = 0\ntarget = 1\nmegabytes_per_second = 4096\n\
         [[hmat.cache]]\nnode = 1\nsize = '16M'\nlevel = 1\nline = 64\n\
         [[cxl]]\nsize = '1G'",
    )
    .unwrap();
    let arguments = joined(&spec);
    for part in [
        "-M q35,hmat=on,cxl=on,cxl-fmw.0.targets.0=cxl0,cxl-fmw.0.size=1073741824B",
        "node,nodeid=1,memdev=ram1,initiator=0",
        "hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency,latency=300",
        "hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-bandwidth,bandwidth=4096M",
        "hmat-cache,node-id=1,size=16777216B,level=1,associativity=direct,policy=write-back,line=64",
        "-device pxb-cxl,bus_nr=64,bus=pcie.0,id=cxl0",
    ] {
        assert!(arguments.contains(part), "{part} not in {arguments}");
    }
}

#[test]
fn interleaved_memory_comes_with_tables_of_our_own() {
    let spec = parse(
        "distances = [[10, 15], [25, 10]]\n[[node]]\ncpus = [0]\nmemory = ['128M', '64M']\n\
         [[node]]\ncpus = [1]\nmemory = ['128M', '64M']",
    )
    .unwrap();
    let mib = |mib: u64| mib << 20;
    assert_eq!(
        ranges(&spec),
        [(0, 0, mib(128)), (1, mib(128), mib(256)), (0, mib(256), mib(320)), (1, mib(320), mib(384))]
    );
    let arguments = machine_arguments(&spec);
    assert!(!arguments.arguments.iter().any(|argument| argument.contains("numa")));
    let [srat, slit] = &arguments.tables[..] else { panic!("{:?}", arguments.tables) };
    // 12 bytes of fields, two processors of 16 bytes, four ranges of 40.
    assert_eq!((srat.signature, srat.body.len()), ("SRAT", 12 + 2 * 16 + 4 * 40));
    assert_eq!(slit.body, [2, 0, 0, 0, 0, 0, 0, 0, 10, 15, 25, 10]);
}

#[test]
fn memory_goes_around_the_hole_for_devices() {
    let spec = parse("[[node]]\ncpus = [0]\nmemory = ['2G', '1G']\n[[node]]\nmemory = '2G'").unwrap();
    let gib = |gib: u64| gib << 30;
    assert_eq!(ranges(&spec), [(0, 0, gib(2)), (1, gib(4), gib(6)), (0, gib(6), gib(7))]);
}

#[test]
fn every_topology_of_the_project_is_a_machine() {
    let root = crate::workspace::root();
    let names: Vec<_> = std::fs::read_dir(super::folder(root))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(names.len() >= 12, "{names:?}");
    for path in names {
        super::load(root, &path).unwrap_or_else(|error| panic!("{error}"));
    }
}
