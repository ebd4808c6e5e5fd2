//! Models of CPUs whose TLBs tag what they hold: a CPU returns to a space while another changes it,
//! gives its ASID to another space, or hears a broadcast.
#![cfg(loom)]
#![allow(clippy::unwrap_used)]

mod loom_states;

use std::cell::Cell;
use std::num::NonZeroU16;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicUsize};

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use topomem_percpu::{CpuId, CpuPin, CpuSet, Platform};
use topomem_shootdown::{
    Asid, Domain, Invalidation, PageRange, PageSize, RootLoad, Shootdown, SwitchFlushed, Ticks, Tlb,
    TlbFeatures, VirtAddr,
};

const CPUS: usize = 2;
/// Nothing is cached.
const NONE: u64 = 0;

/// What a page's entry holds in a space before and after it is changed.
const fn old(space: usize) -> u64 {
    10 * space as u64 + 1
}

const fn new(space: usize) -> u64 {
    old(space) + 1
}

loom::thread_local! {
    static CPU: Cell<usize> = Cell::new(0);
}

/// One page in each of two spaces. What only its own CPU uses is not loom's.
struct Machine {
    features: TlbFeatures,
    ipi: [AtomicBool; CPUS],
    pte: [AtomicU64; 2],
    /// By ASID.
    tlb: [[AtomicU64; 3]; CPUS],
    asid: [AtomicU16; CPUS],
    root: [AtomicUsize; CPUS],
    /// Held during an access where there are broadcasts: who waits for one waits for its end.
    access: [Mutex<()>; CPUS],
}

type Queue = Shootdown<Machine>;

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

fn run_as(index: usize) -> CpuPin {
    CPU.with(|cpu| cpu.set(index));
    // SAFETY: a thread plays one CPU at a time, and no other plays it meanwhile.
    unsafe { CpuPin::new(cpu(index)) }
}

impl Machine {
    fn here(&self) -> usize {
        CPU.with(Cell::get)
    }

    fn entry(&self, asid: u16) -> &AtomicU64 {
        &self.tlb[self.here()][usize::from(asid)]
    }

    fn current(&self) -> u16 {
        self.asid[self.here()].load(Ordering::Relaxed)
    }

    fn load_root(&self, space: usize, load: RootLoad) -> SwitchFlushed {
        let here = self.here();
        let asid = match load {
            RootLoad::Untagged => Asid::KERNEL,
            RootLoad::Keep(asid) => asid,
            RootLoad::Flush(asid) => {
                self.entry(asid.get()).store(NONE, Ordering::Relaxed);
                asid
            }
        };
        self.root[here].store(space, Ordering::Relaxed);
        self.asid[here].store(asid.get(), Ordering::Relaxed);
        SwitchFlushed::Yes
    }

    /// Uses the page: what its translation says.
    fn touch(&self) -> u64 {
        let here = self.here();
        let _access = self.features.broadcast_pages().map(|_| self.access[here].lock().unwrap());
        let space = self.root[here].load(Ordering::Relaxed);
        let entry = self.entry(self.current());
        let mut cached = entry.load(Ordering::Relaxed);
        if cached == NONE {
            cached = self.pte[space].load(Ordering::Relaxed);
            entry.store(cached, Ordering::Relaxed);
        }
        assert!(cached == old(space) || cached == new(space), "a translation of another space");
        cached
    }
}

// SAFETY: ids are the threads'; memory is never asked for.
unsafe impl Platform for Machine {
    fn current_cpu(&self) -> CpuId {
        cpu(self.here())
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
}

// SAFETY: the TLB is the array; a flush drops the entries; `send_ipi` only delays.
unsafe impl Tlb for Machine {
    fn features(&self) -> TlbFeatures {
        self.features
    }

    fn flush_page(&self, _: VirtAddr, _: PageSize) {
        // loom looks for a race only with the last access to an atomic: let others look here.
        thread::yield_now();
        self.entry(self.current()).store(NONE, Ordering::Relaxed);
    }

    fn flush_non_global(&self) {
        self.entry(self.current()).store(NONE, Ordering::Relaxed);
    }

    fn flush_all(&self) {
        self.tlb[self.here()].iter().for_each(|entry| entry.store(NONE, Ordering::Relaxed));
    }

    fn flush_page_of(&self, asid: Asid, _: VirtAddr, _: PageSize) {
        self.entry(asid.get()).store(NONE, Ordering::Relaxed);
    }

    fn broadcast_pages(&self, _: PageRange) {}

    fn broadcast_sync(&self) {
        for (tlb, access) in self.tlb.iter().zip(&self.access) {
            let _access = access.lock().unwrap();
            tlb.iter().for_each(|entry| entry.store(NONE, Ordering::Relaxed));
        }
    }

    fn send_ipi(&self, to: &CpuSet) {
        to.iter().for_each(|target| {
            self.ipi[target.index()].swap(true, Ordering::AcqRel);
        });
    }

    fn now(&self) -> Ticks {
        Ticks(0)
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(u64::MAX)
    }
}

struct World {
    queue: Queue,
    spaces: [Domain; 2],
    /// A change of a page has completed, by space.
    completed: [AtomicBool; 2],
}

/// Both CPUs online, CPU 1 in space 0 with its page cached.
fn world(features: TlbFeatures) -> Arc<World> {
    let machine = Machine {
        features,
        ipi: std::array::from_fn(|_| AtomicBool::new(false)),
        pte: std::array::from_fn(|space| AtomicU64::new(old(space))),
        tlb: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(NONE))),
        asid: Default::default(),
        root: Default::default(),
        access: std::array::from_fn(|_| Mutex::new(())),
    };
    let world = Arc::new(World {
        queue: Shootdown::new(machine),
        spaces: std::array::from_fn(|_| Domain::new()),
        completed: std::array::from_fn(|_| AtomicBool::new(false)),
    });
    loom_states::place(&world.queue, CPUS);
    for index in 0..CPUS {
        world.queue.cpu_online(&run_as(index)).unwrap();
    }
    world.enter(0);
    world
}

impl World {
    /// CPU 1 takes up `space`, and uses its page in the switch and after.
    fn enter(&self, space: usize) {
        let pin = run_as(1);
        let machine = self.queue.tlb();
        // SAFETY: the world keeps its domains to the end.
        unsafe {
            self.queue.activate(&pin, &self.spaces[space], |load| {
                let flushed = machine.load_root(space, load);
                machine.touch();
                self.deliver();
                thread::yield_now();
                flushed
            });
        }
        self.check(space);
    }

    /// Delivers CPU 1's interrupt, if there is one.
    fn deliver(&self) {
        if self.queue.tlb().ipi[1].swap(false, Ordering::AcqRel) {
            let _ = self.queue.on_ipi(&run_as(1));
        }
    }

    fn check(&self, space: usize) {
        // Acquire: pairs with the Release in `change`.
        let completed = self.completed[space].load(Ordering::Acquire);
        let used = self.queue.tlb().touch();
        assert!(!completed || used == new(space), "a stale translation after completion");
    }

    /// CPU 0 changes the page of `space`, while CPU 1 does `others`.
    fn change(world: &Arc<World>, space: usize, others: fn(&World)) {
        let target = {
            let world = world.clone();
            thread::spawn(move || {
                run_as(1);
                others(&world);
                world.deliver();
            })
        };
        let pin = run_as(0);
        world.queue.tlb().pte[space].store(new(space), Ordering::Relaxed);
        let page = Invalidation::page(VirtAddr::new_truncate(0), PageSize::Size4KiB);
        let mut ticket = world.queue.invalidate(&pin, &world.spaces[space], page);
        for _ in 0..2 {
            if ticket.is_complete() {
                world.completed[space].store(true, Ordering::Release);
            }
            thread::yield_now();
        }
        target.join().unwrap();
        run_as(1);
        world.deliver();
        assert!(ticket.is_complete(), "a request was lost");
        world.completed[space].store(true, Ordering::Release);
        world.enter(space);
    }
}

fn explore(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(f);
}

fn broadcasting() -> TlbFeatures {
    TlbFeatures::NONE.with_asids(2).with_broadcast(NonZeroU16::MIN)
}

/// CPU 1 returns to the space that CPU 0 changes, where it has its old translation.
fn returning(features: TlbFeatures, prepare: fn(&Queue)) {
    explore(move || {
        let world = world(features);
        world.enter(1);
        prepare(&world.queue);
        World::change(&world, 0, |world| world.enter(0));
    });
}

/// CPU 1 leaves the space that CPU 0 changes, and returns.
fn leaving_and_returning(features: TlbFeatures, prepare: fn(&Queue)) {
    explore(move || {
        let world = world(features);
        world.enter(1);
        world.enter(0);
        prepare(&world.queue);
        World::change(&world, 0, |world| {
            world.enter(1);
            world.enter(0);
        });
    });
}

/// CPU 1 stays in the space that CPU 0 changes.
fn staying(prepare: fn(&Queue)) {
    explore(move || {
        let world = world(broadcasting());
        prepare(&world.queue);
        World::change(&world, 0, |world| {
            world.check(0);
            world.check(0);
        });
    });
}

/// The only ASID goes to the space that CPU 0 changes, then back.
fn reusing(prepare: fn(&Queue)) {
    explore(move || {
        let world = world(TlbFeatures::NONE.with_asids(1));
        prepare(&world.queue);
        World::change(&world, 1, |world| {
            world.enter(1);
            world.enter(0);
        });
    });
}

#[test]
fn returning_meets_an_invalidation() {
    returning(TlbFeatures::NONE.with_asids(2), |_| {});
}

#[test]
fn returning_selectively_meets_an_invalidation() {
    returning(TlbFeatures::NONE.with_asids(2).with_selective(), |_| {});
}

#[test]
fn leaving_and_returning_meets_an_invalidation() {
    leaving_and_returning(TlbFeatures::NONE.with_asids(2), |_| {});
}

#[test]
fn reusing_an_asid_meets_an_invalidation() {
    reusing(|_| {});
}

#[test]
fn staying_meets_a_broadcast() {
    staying(|_| {});
}

#[test]
fn returning_meets_a_broadcast() {
    returning(broadcasting(), |_| {});
}

#[test]
fn leaving_and_returning_meets_a_broadcast() {
    leaving_and_returning(broadcasting(), |_| {});
}

#[cfg(feature = "fault-injection")]
mod caught {
    use topomem_shootdown::Fault;

    use super::*;

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn returning_without_comparing() {
        returning(TlbFeatures::NONE.with_asids(2), |queue| queue.inject(Some(Fault::KeepStaleAsid)));
    }

    #[test]
    #[should_panic(expected = "a translation of another space")]
    fn reusing_without_a_flush() {
        reusing(|queue| queue.inject(Some(Fault::ReuseUnflushed)));
    }

    #[test]
    #[should_panic(expected = "a stale translation after completion")]
    fn not_waiting_for_a_broadcast() {
        staying(|queue| queue.inject(Some(Fault::BroadcastUnsynced)));
    }
}
