//! All CPUs allocate on all nodes, and free what a CPU of another node has allocated.

use alloc::alloc::Layout;
use alloc::vec::Vec;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use topomem::percpu::SizeClass;
use topomem::{CpuId, NodeId, Platform, Topology};
use topomem_stress::COUNTED_NODES;

use super::super::failure;
use super::super::memory_back::{Look, account, is_back, meet};
use super::{Held, alloc};
use crate::executor::spawn_on;
use crate::log;
use crate::memory::platform::Kernel;
use crate::memory::service::HEAP;
use crate::per_cpu::MAX_CPUS;
use crate::smp::ipi;

/// Sizes of the objects: of slabs, and large.
const SIZES: [usize; 4] = [24, 500, 3000, 40_000];
/// Objects of a size on each node that a CPU allocates before it gives them away.
const OBJECTS: usize = 40;
const ROUNDS: usize = 3;

/// The objects that each CPU gives away; null, or the last of a [`Held`].
static GIVEN: [AtomicPtr<u8>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];
/// Was a check not met? Relaxed: the reports are written before, and nothing else depends on it.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Runs a participant on each CPU; true if all was right. Prints what the heap holds.
pub(super) async fn run(topology: &'static Topology) -> bool {
    let mut participants = Vec::new();
    for cpu in ipi::running().iter() {
        match spawn_on(cpu, move || participate(cpu, topology)) {
            Ok(participant) => participants.push(participant),
            // The others would wait for it.
            Err(error) => {
                fail(format_args!("{error}"));
                return false;
            }
        }
    }
    let mut is_right = true;
    for participant in participants {
        is_right &= participant.await;
    }
    log!("what the heap holds:\n{}", HEAP.heap().slabinfo());
    is_right && !HAS_FAILED.load(Ordering::Relaxed)
}

/// One CPU's part. Is all memory back at the end?
async fn participate(cpu: CpuId, topology: &'static Topology) -> bool {
    // What the heap makes at its first use of a node stays.
    exchange(cpu, topology).await;
    let before = account(topology, || ()).await;
    let objects_before = objects_out(topology);
    meet().await;
    for _ in 0..ROUNDS {
        exchange(cpu, topology).await;
    }
    let are_home = |look| {
        let objects = objects_out(topology);
        if objects != objects_before && look == Look::Last {
            fail(format_args!("objects of each node: {objects_before:?} before, {objects:?} now"));
        }
        objects == objects_before
    };
    is_back(cpu, &before, topology, || (), are_home).await
}

/// Allocates objects on each node, gives them to a CPU half of all CPUs further on, and frees what that many
/// CPUs before has given.
async fn exchange(cpu: CpuId, topology: &Topology) {
    let Some(giver) = giver(cpu) else { return };
    for size in SIZES {
        let Ok(layout) = Layout::from_size_align(size, 8) else { continue };
        let mut held = Held { layout, last: None };
        for node in topology.nodes() {
            (0..OBJECTS).for_each(|_| allocate_on(node, topology, &mut held));
        }
        GIVEN[cpu.index()].store(held.last.map_or(ptr::null_mut(), NonNull::as_ptr), Ordering::Release);
        meet().await;
        // Acquire pairs with the Release above: the links between the objects are seen.
        let last = NonNull::new(GIVEN[giver.index()].swap(ptr::null_mut(), Ordering::Acquire));
        Held { layout, last }.free();
        meet().await;
    }
}

/// The CPU that is half of all CPUs before `cpu`: on a machine of several nodes one of another node.
fn giver(cpu: CpuId) -> Option<CpuId> {
    let running = ipi::running();
    let (place, all) = (running.iter().position(|other| other == cpu)?, running.len());
    running.iter().nth((place + all - all / 2) % all)
}

/// Allocates an object on `node`, and checks where it is.
fn allocate_on(node: NodeId, topology: &Topology, held: &mut Held) {
    let on = match HEAP.heap().on(node) {
        Ok(on) => on,
        Err(error) => return fail(format_args!("{error}")),
    };
    match on.try_alloc(held.layout) {
        Ok(object) => {
            let found = topology.node_of_addr(Kernel.virt_to_phys(object));
            if found != on.node() {
                fail(format_args!("an object for {node} is on {found}, and should be on {}", on.node()));
            }
            // SAFETY: the heap gave at least a word.
            unsafe { held.push(object) };
        }
        Err(error) => fail(format_args!("{error} on {node}")),
    }
}

/// The objects of each node that are in no slab or depot of it.
fn objects_out(topology: &Topology) -> [u64; COUNTED_NODES] {
    let mut out = [0; COUNTED_NODES];
    for node in topology.nodes() {
        let of_class = |class| HEAP.heap().node_class_stats(node, class).map_or(0, |stats| stats.out);
        out[node.index() % COUNTED_NODES] += SizeClass::all().map(of_class).sum::<u64>();
    }
    out
}

fn fail(what: core::fmt::Arguments<'_>) {
    HAS_FAILED.store(true, Ordering::Relaxed);
    failure(what, "heap on nodes");
}
