//! What regions use, and how it is written.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use topomem::object::{MemoryObject, ObjectMapping};
use topomem::region::{FaultAccess, Kind, MapRequest, PageFault, Placement, RegionName, Sharing};
use topomem::sim::{Sim, SimService};
use topomem::{Access, CpuId, CpuPin, FrameRequest, NodeId, PageRange, PageSize, Policy, Protection};
use topomem_numa::frames::NodeSet;

mod space_support;
use space_support::{Space, at};

fn booted() -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(2).cpus(2).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn mmap(space: &Space, pin: &CpuPin, page: u64, request: MapRequest) {
    space.mmap(pin, &request.placed(Placement::Fixed(at(page)))).unwrap();
}

fn touch(space: &Space, pin: &CpuPin, page: u64, access: FaultAccess) {
    space.on_page_fault(pin, PageFault::new(at(page), access)).unwrap();
}

/// A space with a bit of everything, and a child that shares some of it.
fn filled(service: &'static SimService, pin: &CpuPin) -> (Space, Space) {
    let space = service.create_space(pin).unwrap();
    mmap(&space, pin, 256, MapRequest::anonymous(8 << 12));
    mmap(&space, pin, 300, MapRequest::anonymous(4 << 12).kind(Kind::Heap));
    mmap(&space, pin, 304, MapRequest::anonymous(4 << 12).access(Access::EXECUTE));
    mmap(&space, pin, 1 << 20, MapRequest::huge(2 << 20, PageSize::Size2MiB));
    space.set_name(pin, at(304), 4096, Some(RegionName::new("code").unwrap())).unwrap();
    let node = NodeId::new(1).unwrap();
    space.set_region_policy(pin, at(256), 8 << 12, Some(Policy::Bind(NodeSet::of(node)))).unwrap();
    (256..260).for_each(|page| touch(&space, pin, page, FaultAccess::Write));
    touch(&space, pin, 260, FaultAccess::Read);
    touch(&space, pin, 300, FaultAccess::Write);
    let child = space.fork(pin).unwrap();
    touch(&space, pin, 300, FaultAccess::Write);
    touch(&space, pin, 1 << 20, FaultAccess::Write);
    (space, child)
}

#[test]
fn what_is_counted_is_what_is_there() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let (space, child) = filled(service, pin);
        let usage = space.usage(pin);
        assert_eq!((usage.total, usage.resident), (16 + 512, 6 + 512));
        assert_eq!((usage.private, usage.shared, usage.borrowed, usage.large), (1 + 512, 4, 1, 512));
        assert_eq!(usage.resident, space.mapped_pages());
        let everywhere = PageRange::new(at(256), 1 << 21, PageSize::Size4KiB).unwrap();
        let nodes = space.pages_on_nodes(pin, everywhere, NodeId::ZERO);
        assert!(nodes.iter().eq([(NodeId::ZERO, 513), (NodeId::new(1).unwrap(), 4)]));
        let nodes = space.pages_on_nodes(pin, everywhere, NodeId::new(1).unwrap());
        assert_eq!([0, 1, 65].map(|node| nodes.on_node(NodeId::new(node).unwrap())), [0, 4, 0]);
        let range = PageRange::new(at(258), 3, PageSize::Size4KiB).unwrap();
        let part = space.usage_in(pin, range);
        assert_eq!((part.total, part.resident, part.shared, part.borrowed), (3, 3, 2, 1));
        let mut sum = 0;
        space.for_each_region(pin, |region| {
            let pages = PageRange::new(region.start(), region.length() >> 12, PageSize::Size4KiB).unwrap();
            let usage = space.usage_in(pin, pages);
            assert_eq!(usage.resident, region.resident_pages());
            sum += usage.resident;
        });
        assert_eq!(sum, usage.resident);
        let usage = child.usage(pin);
        assert_eq!((usage.total, usage.resident, usage.resident), (528, 6, child.mapped_pages()));
        // Pages of no region are mapped, and no region's.
        let plain = PageRange::page(at(1 << 21), PageSize::Size4KiB);
        space.map(pin, plain, FrameRequest::frame(), Protection::USER_DATA).unwrap();
        assert_eq!(space.usage(pin).resident + 1, space.mapped_pages());
    });
}

#[test]
fn lists_name_objects_by_their_numbers() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        let object = MemoryObject::anonymous(service, pin, 8 << 12).unwrap();
        let request = MapRequest::anonymous(2 << 12).placed(Placement::Fixed(at(256)));
        let mapping = ObjectMapping::new(&object, 3 << 12, Sharing::Shared);
        space.mmap_object(pin, &request, mapping).unwrap();
        let number = object.id().get();
        assert_ne!(number, 0);
        assert_eq!(space.maps(pin).to_string(), format!("00100000-00102000 rw-s 00003000 00:01 {number} \n"));
    });
}

#[test]
fn lists_read_as_those_of_linux() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let (space, _child) = filled(service, pin);
        let maps = space.maps(pin).to_string();
        let lines: Vec<&str> = maps.lines().collect();
        assert_eq!(lines[0], "00100000-00108000 rw-p 00000000 00:00 0 ");
        let heap = "0012c000-00130000 rw-p 00000000 00:00 0 ";
        assert_eq!(lines[1], format!("{heap:73}[heap]"));
        let code = "00130000-00131000 r-xp 00000000 00:00 0 ";
        assert_eq!(lines[2], format!("{code:73}[anon:code]"));
        assert_eq!(lines[3], "00131000-00134000 r-xp 00000000 00:00 0 ");
        assert_eq!(lines[4], "100000000-100200000 rw-p 00000000 00:00 0 ");
        assert_eq!(lines.len(), 5);
        let smaps = space.smaps(pin).to_string();
        assert!(
            smaps.starts_with("00100000-00108000 rw-p 00000000 00:00 0 \nSize:                 32 kB\n"),
            "{smaps}"
        );
        assert!(
            smaps.contains(
                "Rss:                  16 kB\nPss:                   8 kB\nShared_Dirty:         16 kB\n"
            ),
            "{smaps}"
        );
        assert!(
            smaps.contains(
                "Rss:                2048 kB\nPss:                2048 kB\nShared_Dirty:          0 kB\n"
            ),
            "{smaps}"
        );
        let numa = space.numa_maps(pin).to_string();
        assert!(numa.starts_with("00100000 bind:1 anon=4 dirty=4 N1=4 kernelpagesize_kB=4\n"), "{numa}");
        assert!(numa.contains("\n0012c000 default anon=1 dirty=1 N0=1 kernelpagesize_kB=4\n"), "{numa}");
    });
}

#[test]
fn shared_frames_are_divided_by_their_mappings() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let (space, other) = (service.create_space(pin).unwrap(), service.create_space(pin).unwrap());
        let object = MemoryObject::anonymous(service, pin, 8 << 12).unwrap();
        let show = |space: &Space, page, count: u64, sharing| {
            let request = MapRequest::anonymous(count << 12).placed(Placement::Fixed(at(page)));
            space.mmap_object(pin, &request, ObjectMapping::new(&object, 0, sharing)).unwrap();
        };
        let part = |space: &Space| space.usage(pin).proportional_bytes;
        show(&space, 256, 8, Sharing::Shared);
        touch(&space, pin, 256, FaultAccess::Write);
        touch(&space, pin, 257, FaultAccess::Write);
        assert_eq!(part(&space), 2 << 12, "the object's own hold is no mapping");
        // One page: the first access maps those around it, too.
        show(&other, 300, 1, Sharing::Private);
        touch(&other, pin, 300, FaultAccess::Read);
        assert_eq!((part(&space), part(&other)), (4096 + 2048, 2048));
        // A copy is the space's alone, until a child has it, too.
        touch(&other, pin, 300, FaultAccess::Write);
        assert_eq!((part(&space), part(&other)), (2 << 12, 4096));
        let child = other.fork(pin).unwrap();
        assert_eq!((part(&child), part(&other)), (2048, 2048));
        // Large pages, whole and cut.
        mmap(&space, pin, 1 << 20, MapRequest::huge(2 << 20, PageSize::Size2MiB));
        touch(&space, pin, 1 << 20, FaultAccess::Write);
        let second = space.fork(pin).unwrap();
        assert_eq!((part(&space), part(&second)), ((2 << 12) + (1 << 20), 1 << 20));
        space.munmap(pin, at(1 << 20), 256 << 12).unwrap().wait(pin);
        let cut = part(&space) - (2 << 12);
        assert!((256 << 11..256 << 12).contains(&cut), "{cut}");
        // The frame of zeros is nobody's.
        mmap(&space, pin, 400, MapRequest::anonymous(4096));
        let before = part(&space);
        touch(&space, pin, 400, FaultAccess::Read);
        assert_eq!(part(&space), before);
    });
}

#[test]
fn machine_and_tables_are_written() {
    let (sim, service) = booted();
    sim.on(CpuId::BOOT, |pin| {
        let (space, _child) = filled(service, pin);
        let dump = space.dump(pin).to_string();
        let lines: Vec<&str> = dump.lines().collect();
        assert!(lines[0].starts_with("0x0000000000100000-0x00000000001"), "{dump}");
        assert!(lines[0].contains(" r--u 4K -> 0x") && lines[0].ends_with(" shared"), "{dump}");
        assert!(lines.iter().any(|line| line.ends_with("12 KiB reserved")), "{dump}");
        assert!(lines.last().unwrap().contains("2048 KiB rw-u 2M -> 0x"), "{dump}");
        let kilobytes = |name: &str| {
            let text = service.meminfo().to_string();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let totals = service.frames().validate().unwrap();
        assert_eq!(kilobytes("MemFree:"), (totals.free + totals.in_magazines + totals.zeroed) * 4);
        assert_eq!(kilobytes("MemUsed:"), totals.allocated * 4);
        let numastat = service.numastat().to_string();
        assert!(
            numastat.starts_with("                           node0           node1\nnuma_hit "),
            "{numastat}"
        );
    });
}
