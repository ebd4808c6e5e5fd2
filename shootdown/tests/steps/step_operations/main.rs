//! Every operation of the queue, stopped after each of its instructions while another context of
//! the CPU, or another CPU, uses the queue: nobody uses a translation whose removal is complete,
//! and every request completes once the interrupts are delivered.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

mod operations;

use std::cell::Cell;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context as TaskContext, Wake, Waker};

use operations::OPERATIONS;
use topomem_percpu::{CpuId, CpuPin, CpuSet, Platform};
use topomem_shootdown::{
    Completion, Domain, Invalidation, PageRange, PageSize, Shootdown, SwitchFlushed, Ticket, Ticks, Tlb,
    VirtAddr,
};
use topomem_stepper::{Context, Matrix, Operation, Plan, masked};

const CPUS: usize = 3;
const PAGES: usize = 4;
const KERNEL: usize = 0;
const SPACE: usize = 1;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Runs `act` as CPU `index`, and goes back to who it was.
fn on<R>(index: usize, act: impl FnOnce(&CpuPin) -> R) -> R {
    let before = CPU.replace(index);
    // SAFETY: one thread plays all CPUs, each call inside the last.
    let result = act(&unsafe { CpuPin::new(CpuId::new(index).unwrap()) });
    CPU.set(before);
    result
}

/// A TLB per CPU, without locks: versions of the pages of the kernel and of one space; 0 is none.
#[derive(Default)]
struct Machine {
    cached: [[[AtomicU64; PAGES]; 2]; CPUS],
    raised: [AtomicBool; CPUS],
    clock: AtomicU64,
    queue: OnceLock<&'static Queue>,
}

type Queue = Shootdown<Machine>;

fn address(half: usize, page: usize) -> VirtAddr {
    let base = if half == KERNEL { 0xffff_8000_0000_0000 } else { 0 };
    VirtAddr::new(base + ((page as u64) << 12)).unwrap()
}

impl Machine {
    fn clear(&self, half: usize) {
        self.cached[CPU.get()][half].iter().for_each(|page| page.store(0, Relaxed));
    }
}

// SAFETY: the ids are those that the thread plays; no test asks for memory.
unsafe impl Platform for Machine {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(CPU.get()).unwrap()
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
}

// SAFETY: the TLB is the table of versions: a flush removes what it names.
unsafe impl Tlb for Machine {
    fn flush_page(&self, page: VirtAddr, size: PageSize) {
        let flushed = PageRange::page(page, size);
        for half in [KERNEL, SPACE] {
            for index in (0..PAGES).filter(|&index| flushed.contains(address(half, index))) {
                self.cached[CPU.get()][half][index].store(0, Relaxed);
            }
        }
    }

    fn flush_non_global(&self) {
        self.clear(SPACE);
    }

    fn flush_all(&self) {
        self.clear(KERNEL);
        self.clear(SPACE);
    }

    fn send_ipi(&self, to: &CpuSet) {
        to.iter().for_each(|target| self.raised[target.index()].store(true, Relaxed));
    }

    /// A CPU that waits reads the clock: meanwhile the others answer.
    fn now(&self) -> Ticks {
        let waiting = CPU.get();
        let queue = self.queue.get().unwrap();
        for index in (0..CPUS).filter(|&index| index != waiting) {
            if self.raised[index].swap(false, Relaxed) {
                on(index, |pin| _ = queue.on_ipi(pin));
            }
        }
        Ticks(self.clock.fetch_add(1, Relaxed))
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(100_000)
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

type Awaited = Pin<Box<Completion<'static, Machine>>>;

struct Scene {
    queue: &'static Queue,
    space: &'static Domain,
    /// The version of each page, and the one before which nobody may use any more.
    entries: [[AtomicU64; PAGES]; 2],
    floor: [[AtomicU64; PAGES]; 2],
    /// What context and operation have under way, with what each removed.
    tickets: Mutex<Vec<(Ticket<'static, Machine>, usize, u64)>>,
    future: Mutex<Option<Awaited>>,
    /// Each CPU has the space active, and is awake.
    uses: [AtomicBool; CPUS],
    count: Arc<Count>,
}

impl Scene {
    fn new() -> Scene {
        let queue: &'static Queue = Box::leak(Box::new(Shootdown::new(Machine::default())));
        assert!(queue.tlb().queue.set(queue).is_ok());
        let scene = Scene {
            queue,
            space: Box::leak(Box::new(Domain::new())),
            entries: [const { [const { AtomicU64::new(1) }; PAGES] }; 2],
            floor: Default::default(),
            tickets: Mutex::default(),
            future: Mutex::default(),
            uses: Default::default(),
            count: Arc::default(),
        };
        for cpu in 0..CPUS {
            assert!(on(cpu, |pin| queue.place(pin.cpu(), Box::leak(Box::default()))).is_ok());
            on(cpu, |pin| queue.cpu_online(pin)).unwrap();
            scene.enter(cpu);
        }
        scene
    }

    fn enter(&self, cpu: usize) {
        let switch = |_| {
            self.queue.tlb().clear(SPACE);
            SwitchFlushed::Yes
        };
        // SAFETY: the domain lives for ever, and the switch is the machine's own.
        on(cpu, |pin| _ = unsafe { self.queue.activate(pin, self.space, switch) });
        self.uses[cpu].store(true, Relaxed);
    }

    fn leave(&self, cpu: usize) {
        self.uses[cpu].store(false, Relaxed);
        let switch = |_| {
            self.queue.tlb().clear(SPACE);
            SwitchFlushed::Yes
        };
        // SAFETY: the space is not used from here on.
        on(cpu, |pin| _ = unsafe { self.queue.deactivate(pin, switch) });
    }

    /// Uses all pages of a half. A walk and its fill are one step, as a page walker's are.
    fn access(&self, cpu: usize, half: usize) {
        (0..PAGES).for_each(|page| masked(|| self.access_page(cpu, half, page)));
    }

    fn access_page(&self, cpu: usize, half: usize, page: usize) {
        let cached = &self.queue.tlb().cached[cpu][half][page];
        if cached.load(Relaxed) == 0 {
            cached.store(self.entries[half][page].load(Relaxed), Relaxed);
        }
        let (version, floor) = (cached.load(Relaxed), self.floor[half][page].load(Relaxed));
        assert!(version >= floor, "cpu{cpu} uses version {version} of page {page}, {floor} is complete");
    }

    fn access_all(&self, cpu: usize) {
        self.access(cpu, KERNEL);
        if self.uses[cpu].load(Relaxed) {
            self.access(cpu, SPACE);
        }
    }

    /// Changes the pages of a half, and issues that.
    fn change(&self, cpu: usize, half: usize, pages: usize) {
        let mut version = 0;
        for page in &self.entries[half][..pages] {
            version = page.fetch_add(1, Relaxed) + 1;
        }
        let domain = if half == KERNEL { self.queue.kernel() } else { self.space };
        let range = PageRange::new(address(half, 0), pages as u64, PageSize::Size4KiB).unwrap();
        let ticket = on(cpu, |pin| self.queue.invalidate(pin, domain, Invalidation::pages(range)));
        masked(|| self.tickets.lock().unwrap().push((ticket, half, version)));
        self.look();
    }

    /// Notes what is complete: from here on nobody may use what it removed.
    fn look(&self) {
        masked(|| {
            for (ticket, half, version) in self.tickets.lock().unwrap().iter_mut() {
                if ticket.is_complete() {
                    self.floor[*half][0].fetch_max(*version, Relaxed);
                }
            }
        });
    }

    fn deliver(&self, cpu: usize) {
        if self.queue.tlb().raised[cpu].swap(false, Relaxed) {
            on(cpu, |pin| _ = self.queue.on_ipi(pin));
        }
    }

    /// All interrupts arrive: everything is complete, whoever awaits it is woken, nothing is stale.
    fn settle(&self) {
        self.look();
        (0..CPUS).for_each(|cpu| self.access_all(cpu));
        (0..2 * CPUS).for_each(|cpu| self.deliver(cpu % CPUS));
        for cpu in 0..CPUS {
            on(cpu, |pin| self.queue.wake_completed(pin));
        }
        let waker = Waker::from(self.count.clone());
        if let Some(mut future) = self.future.lock().unwrap().take() {
            assert!(future.as_mut().poll(&mut TaskContext::from_waker(&waker)).is_ready());
        }
        for (mut ticket, half, version) in self.tickets.lock().unwrap().drain(..) {
            assert!(ticket.is_complete(), "all have answered");
            self.floor[half][0].fetch_max(version, Relaxed);
        }
        (0..CPUS).for_each(|cpu| self.access_all(cpu));
    }

    fn filled(&self) {
        (0..CPUS).for_each(|cpu| self.access_all(cpu));
    }
}

const fn operation(name: &'static str, prepare: fn(&Scene), run: fn(&Scene)) -> Operation<Scene> {
    Operation { name, prepare, run, undo: Scene::settle }
}

/// CPU 0 has an interrupt to take.
const PENDING: fn(&Scene) = |scene| {
    scene.filled();
    scene.change(1, SPACE, 2);
    scene.change(1, KERNEL, 1);
};

const fn context(name: &'static str, run: fn(&Scene)) -> Context<Scene> {
    Context { name, run, undo: |_| {} }
}

const CONTEXTS: &[Context<Scene>] = &[
    context("its interrupt", |scene| {
        scene.deliver(0);
        scene.look();
    }),
    context("a spurious interrupt that uses the kernel's pages", |scene| {
        on(0, |pin| _ = scene.queue.on_ipi(pin));
        scene.access(0, KERNEL);
    }),
    context("another CPU changes a page, and all answer", |scene| {
        scene.change(1, SPACE, 1);
        (0..CPUS).for_each(|cpu| scene.deliver(cpu));
        scene.look();
    }),
    context("another CPU changes a page", |scene| {
        scene.change(1, SPACE, 1);
        scene.deliver(2);
        scene.look();
    }),
    context("another CPU changes the kernel's pages", |scene| {
        scene.change(1, KERNEL, 2);
        scene.deliver(2);
        scene.look();
    }),
    context("another CPU answers", |scene| {
        scene.deliver(1);
        scene.look();
    }),
    context("another CPU leaves the space and comes back", |scene| {
        scene.leave(1);
        scene.enter(1);
        scene.access_all(1);
    }),
    context("another CPU changes more than the log holds", |scene| {
        (0..40).for_each(|_| scene.change(1, SPACE, 1));
        scene.deliver(2);
        scene.look();
    }),
];

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn operations() {
    Matrix {
        name: "shootdown",
        scene: Scene::new,
        operations: OPERATIONS,
        contexts: CONTEXTS,
        check: |_| {},
        plan: Plan::traps(20_000),
        renew: None,
    }
    .explore();
}
