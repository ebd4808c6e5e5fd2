//! A software machine: page tables of eight pages a space, one TLB per CPU that forgets nothing
//! by itself, and interrupts that stay raised until the test delivers them.
#![allow(dead_code, clippy::unwrap_used)]

mod steps;

use std::cell::Cell;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use topomem_percpu::{CpuId, CpuPin, CpuSet, Platform};
use topomem_shootdown::{PageRange, PageSize, Shootdown, SwitchFlushed, Ticks, Tlb, Unresponsive, VirtAddr};

#[allow(unused_imports, reason = "not every program of tests takes every step")]
pub use steps::{domain, enter, issue};

pub const PAGES: usize = 8;
/// Space 0 is the kernel's, whose translations are global.
pub const SPACES: usize = 3;
pub const CPUS: usize = 4;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

pub fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

/// The calling thread is CPU `index` from here on.
pub fn run_as(index: usize) -> CpuPin {
    CPU.with(|cpu| cpu.set(index));
    // SAFETY: one thread plays a CPU at a time, and the tests never take a thread off its CPU.
    unsafe { CpuPin::new(cpu(index)) }
}

pub fn address(space: usize, page: usize) -> VirtAddr {
    let half = if space == 0 { 0xffff_8000_0000_0000 } else { 0 };
    VirtAddr::new(half + ((space as u64) << 30) + ((page as u64) << 12)).unwrap()
}

pub fn range(space: usize, first: usize, pages: usize) -> PageRange {
    PageRange::new(address(space, first), pages as u64, PageSize::Size4KiB).unwrap()
}

/// The versions that a TLB holds, by address.
type Cached = HashMap<u64, u64>;

#[derive(Default)]
pub struct Flushes {
    pub page: AtomicUsize,
    pub non_global: AtomicUsize,
    pub all: AtomicUsize,
}

pub struct Machine {
    /// The version that each entry is at.
    pub entries: [[AtomicU64; PAGES]; SPACES],
    pub tlbs: [Mutex<Cached>; CPUS],
    pub raised: [AtomicBool; CPUS],
    pub sends: Mutex<Vec<CpuSet>>,
    pub flushes: [Flushes; CPUS],
    pub clock: AtomicU64,
    pub tick: u64,
    pub reports: Mutex<Vec<Unresponsive>>,
    /// Run in the middle of each flush and of each sending.
    pub hook: Mutex<Option<fn(&'static Queue)>>,
    pub itself: Mutex<Option<&'static Queue>>,
}

pub type Queue = Shootdown<Machine>;

/// `value` for ever, where Miri's search for leaks finds it.
pub fn forever<T: Sync>(value: T) -> &'static T {
    static KEPT: Mutex<Vec<&'static dyn Sync>> = Mutex::new(Vec::new());
    let value: &'static T = Box::leak(Box::new(value));
    KEPT.lock().unwrap().push(value);
    value
}

/// A queue without CPUs, for ever.
pub fn offline_queue() -> &'static Queue {
    let machine = Machine {
        entries: Default::default(),
        tlbs: Default::default(),
        raised: Default::default(),
        sends: Mutex::default(),
        flushes: Default::default(),
        clock: AtomicU64::new(0),
        tick: 1,
        reports: Mutex::default(),
        hook: Mutex::new(None),
        itself: Mutex::new(None),
    };
    let queue: &'static Queue = forever(Shootdown::new(machine));
    *queue.tlb().itself.lock().unwrap() = Some(queue);
    queue
}

/// A queue with `cpus` online; the calling thread is CPU 0.
pub fn queue(cpus: usize) -> &'static Queue {
    let queue = offline_queue();
    for index in 0..cpus {
        queue.cpu_online(&run_as(index)).unwrap();
    }
    run_as(0);
    queue
}

impl Machine {
    fn here(&self) -> usize {
        self.current_cpu().index()
    }

    fn tlb(&self) -> std::sync::MutexGuard<'_, Cached> {
        self.tlbs[self.here()].lock().unwrap()
    }

    fn interrupt_me(&self) {
        let hook = *self.hook.lock().unwrap();
        let itself = *self.itself.lock().unwrap();
        if let (Some(hook), Some(itself)) = (hook, itself) {
            hook(itself);
        }
    }

    /// The version that the calling CPU uses for a page.
    pub fn access(&self, space: usize, page: usize) -> u64 {
        // The walk and the fill are one step, as a page walker's are to a flush.
        let mut tlb = self.tlb();
        *tlb.entry(address(space, page).as_u64())
            .or_insert_with(|| self.entries[space][page].load(Ordering::Relaxed))
    }

    pub fn cached(&self, index: usize, space: usize, page: usize) -> Option<u64> {
        self.tlbs[index].lock().unwrap().get(&address(space, page).as_u64()).copied()
    }

    /// Changes a page's entry and returns its new version.
    pub fn change(&self, space: usize, page: usize) -> u64 {
        self.entries[space][page].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A CR3 write without PCID.
    pub fn load_root(&self) -> SwitchFlushed {
        self.tlb().retain(|&address, _| address >> 63 == 1);
        SwitchFlushed::Yes
    }

    /// Delivers the interrupt raised for `index`, if one is.
    pub fn deliver(&self, queue: &Queue, index: usize) -> bool {
        let raised = self.raised[index].swap(false, Ordering::AcqRel);
        if raised {
            let _ = queue.on_ipi(&run_as(index));
        }
        raised
    }

    pub fn sent(&self) -> usize {
        self.sends.lock().unwrap().iter().map(CpuSet::len).sum()
    }
}

// SAFETY: the ids are the threads'; no test asks for memory.
unsafe impl Platform for Machine {
    fn current_cpu(&self) -> CpuId {
        cpu(CPU.with(Cell::get))
    }

    fn phys_to_virt(&self, _: x86_64::PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
}

// SAFETY: the TLB is the map: a flush removes what it names; `send_ipi` only delays, and the
// swap orders what came before.
unsafe impl Tlb for Machine {
    fn flush_page(&self, page: VirtAddr, size: PageSize) {
        self.interrupt_me();
        self.flushes[self.here()].page.fetch_add(1, Ordering::Relaxed);
        let flushed = PageRange::page(page, size);
        self.tlb().retain(|&address, _| !flushed.contains(VirtAddr::new(address).unwrap()));
    }

    fn flush_non_global(&self) {
        self.interrupt_me();
        self.flushes[self.here()].non_global.fetch_add(1, Ordering::Relaxed);
        self.tlb().retain(|&address, _| address >> 63 == 1);
    }

    fn flush_all(&self) {
        self.interrupt_me();
        self.flushes[self.here()].all.fetch_add(1, Ordering::Relaxed);
        self.tlb().clear();
    }

    fn send_ipi(&self, to: &CpuSet) {
        self.interrupt_me();
        assert!(!to.is_empty() && !to.contains(self.current_cpu()));
        self.sends.lock().unwrap().push(*to);
        for target in to.iter() {
            self.raised[target.index()].swap(true, Ordering::AcqRel);
        }
    }

    fn now(&self) -> Ticks {
        Ticks(self.clock.fetch_add(self.tick, Ordering::Relaxed))
    }

    fn patience(&self) -> Ticks {
        Ticks(1000)
    }

    fn on_unresponsive(&self, report: Unresponsive) {
        self.reports.lock().unwrap().push(report);
    }
}
