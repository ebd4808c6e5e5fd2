//! The machine that the models run the production code on: two pages, one TLB per CPU that
//! forgets nothing by itself, and interrupts that stay raised until the model delivers them.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../loom_states/mod.rs"]
mod loom_states;

use std::cell::Cell;
use std::ptr::NonNull;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread::{self, JoinHandle};
use topomem_percpu::{CpuId, CpuPin, CpuSet, Platform};
use topomem_shootdown::{
    Domain, Invalidation, PageSize, Shootdown, SwitchFlushed, Ticket, Ticks, Tlb, VirtAddr,
};

/// What a page's entry holds before and after it is changed; 0 is "not cached".
pub(crate) const OLD: u64 = 1;
pub(crate) const NEW: u64 = 2;

loom::thread_local! {
    static CPU: Cell<usize> = Cell::new(0);
}

pub(crate) struct Machine {
    pub(crate) ipi: [AtomicBool; 3],
    pub(crate) tlb: [[AtomicU64; 2]; 3],
    pub(crate) pte: [AtomicU64; 2],
    /// Where the queue is, and how often a flush lets a raised interrupt nest.
    nest: std::sync::atomic::AtomicUsize,
    /// Does CPU 0 halt when it has to wait?
    halts: std::sync::atomic::AtomicBool,
    queue: std::sync::atomic::AtomicPtr<Queue>,
}

pub(crate) type Queue = Shootdown<Machine>;

pub(crate) fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

/// The calling thread is `index` from here on.
pub(crate) fn run_as(index: usize) -> CpuPin {
    CPU.with(|cpu| cpu.set(index));
    // SAFETY: a thread plays one CPU at a time, and no other plays it meanwhile.
    unsafe { CpuPin::new(cpu(index)) }
}

// SAFETY: ids are the threads'; memory is never asked for.
unsafe impl Platform for Machine {
    fn current_cpu(&self) -> CpuId {
        cpu(CPU.with(Cell::get))
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
}

impl Machine {
    fn drop_entry(&self, page: usize) {
        // loom looks for a race only with the last access to an atomic, and the handler's own
        // load of what it has published hides the waiter's: let the waiter look here.
        loom::thread::yield_now();
        self.let_nest();
        self.tlb[self.current_cpu().index()][page].store(0, Ordering::Relaxed);
    }

    fn let_nest(&self) {
        use std::sync::atomic::Ordering;
        let left = self.nest.load(Ordering::Relaxed);
        if left == 0 || self.current_cpu().index() != 1 {
            return;
        }
        self.nest.store(left - 1, Ordering::Relaxed);
        // SAFETY: the queue that owns this machine, which runs it now.
        deliver(unsafe { &*self.queue.load(Ordering::Relaxed) }, 1);
    }
}

// SAFETY: the TLB is the array; a flush drops the entries; `send_ipi` only delays.
unsafe impl Tlb for Machine {
    fn flush_page(&self, page: VirtAddr, _: PageSize) {
        self.drop_entry((page.as_u64() >> 12) as usize);
    }

    fn flush_non_global(&self) {
        self.drop_entry(0);
        self.drop_entry(1);
    }

    fn flush_all(&self) {
        self.flush_non_global();
    }

    fn send_ipi(&self, to: &CpuSet) {
        for target in to.iter() {
            self.ipi[target.index()].swap(true, Ordering::AcqRel);
        }
    }

    fn spin_limit(&self) -> Option<Ticks> {
        let halts = self.halts.load(std::sync::atomic::Ordering::Relaxed);
        (halts && self.current_cpu().index() == 0).then_some(Ticks(0))
    }

    fn halt_unless(&self, done: impl FnOnce() -> bool) {
        if done() {
            return;
        }
        let index = self.current_cpu().index();
        // SAFETY: the queue that owns this machine, which runs it now.
        let queue = unsafe { &*self.queue.load(std::sync::atomic::Ordering::Relaxed) };
        while !deliver(queue, index) {
            loom::thread::yield_now();
        }
    }

    fn now(&self) -> Ticks {
        Ticks(0)
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(u64::MAX)
    }
}

/// A queue with CPUs `0..cpus` online; the pages map OLD and nothing is cached.
pub(crate) fn queue(cpus: usize) -> Arc<Queue> {
    let queue = Arc::new(Shootdown::new(Machine {
        ipi: std::array::from_fn(|_| AtomicBool::new(false)),
        tlb: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        pte: std::array::from_fn(|_| AtomicU64::new(OLD)),
        nest: 0.into(),
        halts: false.into(),
        queue: std::ptr::null_mut::<Queue>().into(),
    }));
    loom_states::place(&queue, cpus);
    for index in 0..cpus {
        queue.cpu_online(&run_as(index)).unwrap();
    }
    run_as(0);
    queue
}

/// Lets the next `times` flushes of CPU 1 be interrupted.
pub(crate) fn nest(queue: &Arc<Queue>, times: usize) {
    let machine = queue.tlb();
    machine.queue.store(std::ptr::from_ref(&**queue).cast_mut(), std::sync::atomic::Ordering::Relaxed);
    machine.nest.store(times, std::sync::atomic::Ordering::Relaxed);
}

/// Has CPU 0 halt instead of spinning.
pub(crate) fn let_halt(queue: &Arc<Queue>) {
    let machine = queue.tlb();
    machine.queue.store(std::ptr::from_ref(&**queue).cast_mut(), std::sync::atomic::Ordering::Relaxed);
    machine.halts.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Runs `act` beside the caller, on the queue and the domain.
pub(crate) fn beside<R: 'static>(
    queue: &Arc<Queue>,
    domain: &Arc<Domain>,
    act: impl FnOnce(&Queue, Arc<Domain>) -> R + 'static,
) -> JoinHandle<R> {
    let (queue, domain) = (queue.clone(), domain.clone());
    thread::spawn(move || act(&queue, domain))
}

/// Makes `domain` active on `index`, all its translations cached.
pub(crate) fn enter(queue: &Queue, index: usize, domain: &Domain) {
    // SAFETY: the model keeps its domains to the end.
    unsafe { queue.activate(&run_as(index), domain, |_| SwitchFlushed::No) };
    touch(queue, index, 0);
    touch(queue, index, 1);
}

/// Uses a page: what its translation says.
pub(crate) fn touch(queue: &Queue, index: usize, page: usize) -> u64 {
    let machine = queue.tlb();
    let cached = machine.tlb[index][page].load(Ordering::Relaxed);
    if cached != 0 {
        return cached;
    }
    let walked = machine.pte[page].load(Ordering::Relaxed);
    machine.tlb[index][page].store(walked, Ordering::Relaxed);
    walked
}

/// Delivers a raised interrupt, if there is one. True where there was.
pub(crate) fn deliver(queue: &Queue, index: usize) -> bool {
    let raised = queue.tlb().ipi[index].swap(false, Ordering::AcqRel);
    if raised {
        let _ = queue.on_ipi(&run_as(index));
    }
    raised
}

/// Changes `page` and issues that.
pub(crate) fn change<'q>(
    queue: &'q Queue,
    index: usize,
    domain: &'q Domain,
    page: usize,
) -> Ticket<'q, Machine> {
    queue.tlb().pte[page].store(NEW, Ordering::Relaxed);
    queue.invalidate(&run_as(index), domain, invalidation(page))
}

pub(crate) fn invalidation(page: usize) -> Invalidation {
    Invalidation::page(VirtAddr::new_truncate((page as u64) << 12), PageSize::Size4KiB)
}

/// Once a change of `page` is complete, `index` cannot have the old translation.
pub(crate) fn check_complete(queue: &Queue, ticket: &mut Ticket<'_, Machine>, index: usize, page: usize) {
    for _ in 0..2 {
        if ticket.is_complete() {
            assert_ne!(cached(queue, index, page), OLD, "a stale translation after completion");
        }
        loom::thread::yield_now();
    }
}

pub(crate) fn cached(queue: &Queue, index: usize, page: usize) -> u64 {
    queue.tlb().tlb[index][page].load(Ordering::Relaxed)
}

/// Explores `f`'s interleavings, with at most two preemptions unless LOOM_MAX_PREEMPTIONS says
/// otherwise.
pub(crate) fn explore(f: impl Fn() + Sync + Send + 'static) {
    explore_to(2, f);
}

/// The same with another bound.
pub(crate) fn explore_to(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(f);
}
