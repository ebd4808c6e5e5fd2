//! What the heap says that it holds: by class, by node, by CPU, in bytes, and as a table.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::Layout;
use std::collections::HashMap;
use std::ptr::NonNull;

use common::{Machine, TestHeap, all_drained, all_online, become_cpu, pin};
use topomem_percpu::{CpuId, Heap, HeapStats, NodeClassStats, NodeId, RunLength, SizeClass};

const PAGE: u64 = 4096;
const CPUS: usize = 4;
const CPUS_PER_NODE: usize = 2;

/// What the heap must say.
#[derive(Default)]
struct Expected {
    live: HashMap<SizeClass, u64>,
    large: u64,
    large_bytes: u64,
    uses: [u64; CPUS],
    remote_frees: [u64; CPUS],
}

impl Expected {
    fn allocated(&mut self, layout: Layout) {
        match SizeClass::of(layout) {
            Some(class) => *self.live.entry(class).or_default() += 1,
            None => {
                self.large += 1;
                self.large_bytes += RunLength::of(layout).unwrap().bytes();
            }
        }
    }

    fn freed(&mut self, layout: Layout) {
        match SizeClass::of(layout) {
            Some(class) => *self.live.get_mut(&class).unwrap() -= 1,
            None => {
                self.large -= 1;
                self.large_bytes -= RunLength::of(layout).unwrap().bytes();
            }
        }
    }

    /// Compares every figure of the heap, in which nothing happens.
    fn check(&self, machine: &Machine, heap: &TestHeap<'_>) {
        let (mut live_bytes, mut slab_bytes) = (self.large_bytes, 0);
        for class in SizeClass::all() {
            let stats = heap.class_stats(class);
            assert_eq!(stats.live, self.live.get(&class).copied().unwrap_or(0), "{class}");
            live_bytes += stats.live * class.size() as u64;
            slab_bytes += stats.slab_bytes;
            let mut sum = NodeClassStats::default();
            for of_node in nodes().filter_map(|node| heap.node_class_stats(node, class)) {
                sum.slabs += of_node.slabs;
                sum.free += of_node.free;
                sum.shared += of_node.shared;
                sum.out += of_node.out;
            }
            assert_eq!((sum.slabs, sum.free), (stats.slabs, stats.free), "{class}");
            assert_eq!(sum.out + sum.shared, stats.live + stats.cached, "{class}");
        }
        let large = heap.large_stats();
        assert_eq!((large.live, large.bytes), (self.large, self.large_bytes));
        let stats = heap.stats();
        assert_eq!(stats.live_bytes, live_bytes);
        assert_eq!((stats.slab_bytes, stats.large_bytes), (slab_bytes, large.bytes + large.cached_bytes));
        assert_eq!(stats.held_bytes(), machine.outstanding() as u64 * PAGE, "{stats:?}");
        for cpu in 0..CPUS {
            let stats = heap.cpu_stats(CpuId::new(cpu).unwrap()).unwrap();
            assert_eq!(stats.hits + stats.misses + stats.remote_frees, self.uses[cpu], "CPU {cpu}");
            assert_eq!((stats.remote_frees, stats.nested), (self.remote_frees[cpu], 0), "CPU {cpu}");
        }
    }
}

fn nodes() -> impl Iterator<Item = NodeId> {
    (0..2).filter_map(NodeId::new)
}

/// A number below `bound`: Marsaglia's xorshift.
fn random(state: &mut u64, bound: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state % bound as u64) as usize
}

#[test]
fn each_figure_is_exact_while_nobody_uses_the_heap() {
    let machine = Machine::new(2, CPUS_PER_NODE, 8 << 20);
    let heap = Heap::new(&machine, &machine);
    assert_eq!(heap.stats(), HeapStats::default());
    assert_eq!(heap.stats().fragmentation_per_mille(), 0);
    all_online(&heap);
    let (mut expected, mut state) = (Expected::default(), 88_172_645_463_325_252);
    let mut held: Vec<(NonNull<u8>, Layout, usize)> = Vec::new();
    let mut online = [true; CPUS];
    // A short run frees objects of each CPU often enough only if it holds few.
    let (steps, most_held) = if cfg!(miri) { (300, 60) } else { (12_000, 400) };
    for step in 0..steps {
        let cpu = random(&mut state, CPUS);
        become_cpu(cpu);
        // Uses of a CPU that is offline are counted elsewhere.
        if random(&mut state, 200) == 0 {
            online[cpu] = !online[cpu];
            if online[cpu] { heap.cpu_online(&pin()).unwrap() } else { heap.cpu_offline(&pin()).unwrap() }
        }
        let mut in_class = false;
        if held.len() < 2 + random(&mut state, most_held) {
            let size = [8, 64, 200, 1000, 3000, 12_000, 40_000, 70_000][random(&mut state, 8)];
            let layout = Layout::from_size_align(size, 8).unwrap();
            // A full machine is no error here.
            let Ok(memory) = heap.try_alloc(layout) else { continue };
            expected.allocated(layout);
            held.push((memory, layout, cpu));
            in_class = SizeClass::of(layout).is_some();
        } else {
            let (memory, layout, owner) = held.swap_remove(random(&mut state, held.len()));
            // SAFETY: allocated with that layout, and not used any more.
            unsafe { heap.free(memory, layout) }.unwrap();
            expected.freed(layout);
            if SizeClass::of(layout).is_some() && online[cpu] {
                in_class = true;
                expected.remote_frees[cpu] += u64::from(owner / CPUS_PER_NODE != cpu / CPUS_PER_NODE);
            }
        }
        expected.uses[cpu] += u64::from(in_class && online[cpu]);
        if step % 100 == 0 {
            expected.check(&machine, &heap);
        }
    }
    assert!(expected.large > 0 && expected.remote_frees.iter().all(|&frees| frees > 3));
    expected.check(&machine, &heap);
    let stats = heap.stats();
    let unused = stats.held_bytes() - stats.live_bytes;
    assert_eq!(stats.fragmentation_per_mille(), unused * 1000 / stats.held_bytes());
    for (memory, layout, _) in held {
        become_cpu(0);
        // SAFETY: allocated with that layout, and not used any more.
        unsafe { heap.free(memory, layout) }.unwrap();
    }
    assert_eq!((heap.stats().live_bytes, heap.stats().fragmentation_per_mille()), (0, 1000));
    become_cpu(0);
    all_drained(&heap);
    assert_eq!((heap.stats().slab_bytes, heap.stats().large_bytes), (0, 0));
}

/// Tables of CPUs have pointers for the first 64 in place. The others are served as well as these.
#[test]
#[cfg_attr(miri, ignore = "there are fewer CPUs")]
fn cpus_beyond_the_first_64_have_magazines_and_runs() {
    let machine = Machine::new(1, 701, 4 << 20);
    let heap = Heap::new(&machine, &machine);
    let [small, large] = [64, 32 << 10].map(|bytes| Layout::from_size_align(bytes, 8).unwrap());
    let pair = |layout| {
        let memory = heap.try_alloc(layout).unwrap();
        // SAFETY: allocated with that layout, and not used any more.
        unsafe { heap.free(memory, layout) }.unwrap();
        memory
    };
    let metadata = [0, 63, 64, 511, 700].map(|cpu| {
        become_cpu(cpu);
        heap.cpu_online(&pin()).unwrap();
        (0..100).for_each(|_| _ = pair(small));
        assert_eq!(pair(large), pair(large), "CPU {cpu} keeps no run");
        let stats = heap.cpu_stats(pin().cpu()).unwrap();
        assert!(stats.hits >= 198 && stats.misses <= 2 && stats.nested == 0, "CPU {cpu}: {stats:?}");
        heap.stats().metadata_bytes
    });
    // The pages with addresses: one for CPUs up to 511, and one for those up to 1023.
    let more: Vec<_> = metadata.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(more.iter().map(|bytes| bytes - more[0]).collect::<Vec<_>>(), [0, PAGE, 0, PAGE]);
    become_cpu(0);
    heap.validate().unwrap();
    drop(heap);
    assert_eq!(machine.outstanding(), 0);
}

#[test]
fn each_node_counts_its_own_objects() {
    let machine = Machine::new(2, CPUS_PER_NODE, 2 << 20);
    let heap = Heap::new(&machine, &machine);
    all_online(&heap);
    let layout = Layout::from_size_align(512, 8).unwrap();
    let class = SizeClass::of(layout).unwrap();
    let [first, second] = [0, 1].map(|index| NodeId::new(index).unwrap());
    assert_eq!(heap.node_class_stats(first, class), None);
    // More than CPU 0 keeps for itself, so that magazines get into the depot; but not so many that the depot, which has
    // a single place under Miri, refuses several and sheds what it has.
    let count = 3 * class.rounds();
    let objects: Vec<_> = (0..count).map(|_| heap.try_alloc(layout).unwrap()).collect();
    let full = heap.node_class_stats(first, class).unwrap();
    assert!(full.out >= count as u64 && full.shared == 0, "{full:?}");
    for memory in objects {
        // SAFETY: allocated with that layout, and not used any more.
        unsafe { heap.free(memory, layout) }.unwrap();
    }
    let NodeClassStats { slabs, free, shared, out } = heap.node_class_stats(first, class).unwrap();
    let total = heap.class_stats(class);
    assert_eq!((slabs, free, shared + out), (total.slabs, total.free, total.cached));
    // CPU 0 keeps a magazine or two; the others are in the depot.
    assert_eq!((shared > 0, shared % class.rounds() as u64), (true, 0), "{shared} shared, {out} out");
    assert!(out >= class.rounds() as u64);
    assert_eq!(heap.node_class_stats(second, class), None);

    let table = heap.slabinfo().to_string();
    let line = table.lines().find(|line| line.starts_with("size-512 ")).unwrap();
    let columns: Vec<_> = line.split_whitespace().collect();
    let objects = (free + shared + out).to_string();
    assert_eq!(columns[..4], ["size-512", "0", &objects, "512"], "{table}");
    let of_node = format!("node0: {slabs} slabs, {objects} objects: {out} out, {shared} shared, {free} free");
    assert!(table.contains(&of_node) && !table.contains("node1"), "{table}");
    let held = format!("held: {} bytes", machine.outstanding() as u64 * PAGE);
    assert!(table.contains(&held), "{table}");
    assert!(table.lines().all(|line| line.len() < 140), "{table}");
}
