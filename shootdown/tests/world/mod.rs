//! CPUs on the software machine that take steps, one inside another, and what must hold after each.
#![allow(clippy::unwrap_used)]

mod records;

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use topomem_shootdown::{Domain, Invalidation, Lazy, RootLoad, SwitchFlushed, Ticket};

use crate::machine::*;
use records::Records;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Access { cpu: usize, kernel: bool, page: usize },
    Change { cpu: usize, space: usize, what: What, tables: bool, times: usize },
    Record { cpu: usize, space: usize, pages: (usize, usize), to: Option<usize> },
    Announce,
    Collect { cpu: usize, space: usize, pages: (usize, usize) },
    IssueBatch(usize, usize),
    Pending { cpu: usize, space: usize, pages: (usize, usize) },
    Deliver(usize),
    Spurious(usize),
    Poll(usize),
    Activate(usize, usize),
    Deactivate(usize),
    EnterLazy(usize, bool),
    LeaveLazy(usize),
    Offline(usize),
    Online(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Pages(usize, usize),
    NonGlobal,
    Domain,
    Everything,
}

/// A first page and a number of pages.
fn pages() -> impl Strategy<Value = (usize, usize)> {
    (0..PAGES, 1..=PAGES).prop_map(|(first, len)| (first, len.min(PAGES - first)))
}

fn op() -> impl Strategy<Value = Op> {
    let cpu = 0..CPUS;
    let what = prop_oneof![
        6 => pages().prop_map(|(first, len)| What::Pages(first, len)),
        1 => Just(What::NonGlobal),
        1 => Just(What::Domain),
        1 => Just(What::Everything),
    ];
    prop_oneof![
        8 => (cpu.clone(), any::<bool>(), 0..PAGES)
            .prop_map(|(cpu, kernel, page)| Op::Access { cpu, kernel, page }),
        6 => (cpu.clone(), 0..SPACES, what, any::<bool>(), prop_oneof![9 => Just(1usize), 1 => 2..40usize])
            .prop_map(|(cpu, space, what, tables, times)| Op::Change { cpu, space, what, tables, times }),
        3 => (cpu.clone(), 0..SPACES, pages(), prop::option::of(0..PAGES))
            .prop_map(|(cpu, space, pages, to)| Op::Record { cpu, space, pages, to }),
        2 => Just(Op::Announce),
        2 => (cpu.clone(), 0..SPACES, pages())
            .prop_map(|(cpu, space, pages)| Op::Collect { cpu, space, pages }),
        1 => pages().prop_map(|(first, len)| Op::IssueBatch(first, len)),
        3 => (cpu.clone(), 0..SPACES, pages())
            .prop_map(|(cpu, space, pages)| Op::Pending { cpu, space, pages }),
        5 => cpu.clone().prop_map(Op::Deliver),
        1 => cpu.clone().prop_map(Op::Spurious),
        2 => cpu.clone().prop_map(Op::Poll),
        3 => (cpu.clone(), 1..SPACES).prop_map(|(cpu, space)| Op::Activate(cpu, space)),
        1 => cpu.clone().prop_map(Op::Deactivate),
        2 => (cpu.clone(), any::<bool>()).prop_map(|(cpu, idle)| Op::EnterLazy(cpu, idle)),
        2 => cpu.clone().prop_map(Op::LeaveLazy),
        1 => cpu.clone().prop_map(Op::Offline),
        2 => cpu.prop_map(Op::Online),
    ]
}

/// A step, and those that happen inside it: in its flushes, sends and switches.
pub(crate) fn step() -> impl Strategy<Value = (Op, Vec<Op>)> {
    (op(), prop::collection::vec(op(), 0..4))
}

struct Issued {
    ticket: Ticket<'static, Machine>,
    /// Space, and the version of the table that replaces the one to be freed.
    freed: Option<(usize, u64)>,
    /// What replaces all that was removed.
    changed: Vec<records::Version>,
}

struct World {
    queue: &'static Queue,
    domains: [&'static Domain; SPACES],
    issued: RefCell<Vec<Issued>>,
    records: Records,
    inner: RefCell<Vec<Op>>,
    /// The oldest version that may still be used.
    floor: RefCell<[[u64; PAGES]; SPACES]>,
    /// The oldest table that is not freed yet.
    tables: RefCell<[u64; SPACES]>,
    online: [Cell<bool>; CPUS],
    active: [Cell<usize>; CPUS],
    lazy: [Cell<Option<Lazy>>; CPUS],
    /// Steps of the CPU that are under way.
    inside: [Cell<usize>; CPUS],
    here: Cell<usize>,
}

thread_local! {
    static WORLD: Cell<Option<&'static World>> = const { Cell::new(None) };
}

fn interrupted(_: &'static Queue) {
    if let Some(world) = WORLD.get() {
        let next = world.inner.borrow_mut().pop();
        if let Some(op) = next {
            world.step(&op);
        }
    }
}

impl World {
    /// Runs `f` as `cpu`, then is the CPU that it was.
    fn as_cpu<R>(&self, cpu: usize, f: impl FnOnce(topomem_percpu::CpuPin) -> R) -> R {
        let before = self.here.replace(cpu);
        self.inside[cpu].set(self.inside[cpu].get() + 1);
        let result = f(run_as(cpu));
        self.inside[cpu].set(self.inside[cpu].get() - 1);
        self.here.set(before);
        run_as(before);
        result
    }

    fn step(&self, op: &Op) {
        let queue = self.queue;
        match *op {
            // They would have to wait for the lock of the page tables.
            Op::Change { .. }
            | Op::Record { .. }
            | Op::Collect { .. }
            | Op::IssueBatch(..)
            | Op::Pending { .. }
                if self.records.is_locked() => {}
            Op::Access { cpu, kernel, page } => self.access(cpu, kernel, page),
            Op::Change { cpu, space, what, tables, times } => {
                for _ in 0..times {
                    self.change(cpu, space, what, tables);
                }
            }
            Op::Record { cpu, space, pages: (first, len), to } => self.record(cpu, space, first, len, to),
            Op::Announce => drop(self.announce()),
            Op::Collect { cpu, space, pages: (first, len) } => self.collect(cpu, space, first, len),
            Op::IssueBatch(first, len) => self.issue_batch(first, len),
            Op::Pending { cpu, space, pages: (first, len) } => self.wait_for_pending(cpu, space, first, len),
            // Handlers nest in whatever the CPU does, and may leave laziness there.
            Op::Deliver(cpu) => drop(self.as_cpu(cpu, |_| queue.tlb().deliver(queue, cpu))),
            Op::Spurious(cpu) => drop(self.as_cpu(cpu, |pin| queue.on_ipi(&pin))),
            Op::Poll(cpu) => self.as_cpu(cpu, |pin| queue.poll(&pin)),
            Op::Activate(cpu, _)
            | Op::Deactivate(cpu)
            | Op::EnterLazy(cpu, _)
            | Op::Offline(cpu)
            | Op::Online(cpu)
                if self.inside[cpu].get() != 0 => {}
            Op::Activate(cpu, space) if self.online[cpu].get() => self.activate(cpu, space),
            Op::Deactivate(cpu) => self.deactivate(cpu),
            Op::EnterLazy(cpu, idle) => {
                let lazy = if idle { Lazy::Idle } else { Lazy::Space };
                if self.lazy[cpu].get().is_none_or(|now| now < lazy) {
                    self.lazy[cpu].set(Some(lazy));
                    // SAFETY: `access` keeps to it.
                    self.as_cpu(cpu, |pin| unsafe { queue.enter_lazy(&pin, lazy) });
                }
            }
            Op::LeaveLazy(cpu) => {
                let _ = self.as_cpu(cpu, |pin| queue.leave_lazy(&pin));
                self.lazy[cpu].set(None);
            }
            Op::Offline(cpu) if self.online[cpu].get() => {
                self.deactivate(cpu);
                // SAFETY: `access` touches nothing on an offline CPU.
                let _ = self.as_cpu(cpu, |pin| unsafe { queue.cpu_offline(&pin) }).unwrap();
                self.online[cpu].set(false);
                self.lazy[cpu].set(None);
                // What was on its way is lost.
                queue.tlb().raised[cpu].store(false, std::sync::atomic::Ordering::Relaxed);
            }
            Op::Online(cpu) if !self.online[cpu].get() => {
                let _ = self.as_cpu(cpu, |pin| queue.cpu_online(&pin)).unwrap();
                self.online[cpu].set(true);
            }
            _ => {}
        }
        self.check();
    }

    fn access(&self, cpu: usize, kernel: bool, page: usize) {
        let space = if kernel { 0 } else { self.active[cpu].get() };
        if self.uses(cpu, space) && (kernel || space != 0) {
            let version = self.as_cpu(cpu, |_| self.queue.tlb().access(space, page));
            assert!(version >= self.floor.borrow()[space][page], "cpu{cpu} used a stale translation");
        }
    }

    /// May `cpu` touch addresses of `space` now?
    fn uses(&self, cpu: usize, space: usize) -> bool {
        let forbidden = if space == 0 { Lazy::Idle } else { Lazy::Space };
        self.online[cpu].get()
            && (space == 0 || self.active[cpu].get() == space)
            && self.lazy[cpu].get().is_none_or(|lazy| lazy < forbidden)
    }

    fn change(&self, cpu: usize, space: usize, what: What, tables: bool) {
        let machine = self.queue.tlb();
        let pages: Vec<(usize, usize)> = match what {
            What::Pages(first, len) => (first..first + len).map(|page| (space, page)).collect(),
            // The kernel's are global.
            What::NonGlobal if space == 0 => vec![],
            What::NonGlobal | What::Domain => (0..PAGES).map(|page| (space, page)).collect(),
            What::Everything => {
                (0..SPACES).flat_map(|space| (0..PAGES).map(move |page| (space, page))).collect()
            }
        };
        let mut invalidation = match what {
            What::Pages(first, len) => Invalidation::pages(range(space, first, len)),
            What::NonGlobal => Invalidation::non_global(),
            What::Domain => Invalidation::domain(),
            What::Everything => Invalidation::everything(),
        };
        if tables {
            invalidation = invalidation.with_tables_freed();
        }
        let (changed, freed, record) = self.locked(|| {
            let changed: Vec<_> =
                pages.into_iter().flat_map(|(space, page)| self.replace(space, page)).collect();
            let freed = tables.then(|| (space, machine.replace_table(space)));
            (changed, freed, self.as_cpu(cpu, |_| self.queue.record(self.domains[space], invalidation)))
        });
        if !matches!(what, What::Everything) {
            self.note_recorded(&changed);
        }
        let ticket = self.as_cpu(cpu, |pin| self.queue.announce(&pin, record));
        self.issued.borrow_mut().push(Issued { ticket, freed, changed });
    }

    fn activate(&self, cpu: usize, space: usize) {
        self.as_cpu(cpu, |pin| {
            // SAFETY: the domains live to the case's end; this is no nested step of the CPU.
            unsafe {
                self.queue.activate(&pin, self.domains[space], |load| {
                    let flushed = self.load_root(cpu, load, space);
                    // The walker may fill in an entry at once.
                    self.queue.tlb().access(space, 0);
                    interrupted(self.queue);
                    flushed
                })
            }
        });
        self.lazy[cpu].set(None);
    }

    fn deactivate(&self, cpu: usize) {
        self.as_cpu(cpu, |pin| {
            // SAFETY: the root is loaded by the closure; this is no nested step of the CPU.
            unsafe { self.queue.deactivate(&pin, |load| self.load_root(cpu, load, 0)) }
        });
        self.lazy[cpu].set(None);
    }

    /// The middle of a switch. Handlers use what is loaded, before and after.
    fn load_root(&self, cpu: usize, load: RootLoad, space: usize) -> SwitchFlushed {
        self.lazy[cpu].set(None);
        interrupted(self.queue);
        let flushed = self.queue.tlb().load_root(load);
        self.active[cpu].set(space);
        flushed
    }

    /// What has completed is nowhere cached by a CPU that may use it.
    fn check(&self) {
        let mut issued = self.issued.borrow_mut();
        issued.retain_mut(|issued| {
            let complete = issued.ticket.is_complete();
            let done = self.queue.is_done(issued.ticket.domain(), issued.ticket.request());
            assert!(complete || !done, "the domain is done, but not the ticket");
            if !complete {
                return true;
            }
            if let Some((space, version)) = issued.freed {
                let floor = &mut self.tables.borrow_mut()[space];
                *floor = version.max(*floor);
            }
            for &(space, page, version) in &issued.changed {
                let floor = &mut self.floor.borrow_mut()[space][page];
                *floor = version.max(*floor);
                for cpu in (0..CPUS).filter(|&cpu| self.uses(cpu, space)) {
                    if let Some(cached) = self.queue.tlb().cached(cpu, space, page) {
                        assert!(cached >= version, "cpu{cpu} kept a stale translation");
                    }
                }
            }
            false
        });
        self.check_walks();
    }

    /// No CPU walks, or can, through a table that was freed: not even one that is lazy.
    fn check_walks(&self) {
        let floors = self.tables.borrow();
        for cpu in (0..CPUS).filter(|&cpu| self.online[cpu].get()) {
            for space in [0, self.active[cpu].get()] {
                if let Some(way) = self.queue.tlb().way(cpu, space) {
                    assert!(way >= floors[space], "cpu{cpu} walks a freed table");
                }
            }
        }
    }

    fn settle(&self) {
        while self.announce() {}
        self.issue_batch(0, 1);
        while (0..CPUS).any(|cpu| self.as_cpu(cpu, |_| self.queue.tlb().deliver(self.queue, cpu))) {}
        self.check();
        assert!(self.issued.borrow().is_empty(), "a request was lost: {:?}", self.issued.borrow()[0].ticket);
    }
}

/// Plays `steps` on a new machine, with `prepare`d queue.
pub(crate) fn play(steps: &[(Op, Vec<Op>)], prepare: impl FnOnce(&Queue)) {
    let queue = offline_queue();
    prepare(queue);
    *queue.tlb().hook.lock().unwrap() = Some(interrupted);
    let domains = [queue.kernel(), Box::leak(Box::new(Domain::new())), Box::leak(Box::new(Domain::new()))];
    let world: &'static World = Box::leak(Box::new(World {
        queue,
        domains,
        issued: RefCell::default(),
        records: Records::default(),
        inner: RefCell::default(),
        floor: RefCell::default(),
        tables: RefCell::default(),
        online: Default::default(),
        active: Default::default(),
        lazy: Default::default(),
        inside: Default::default(),
        here: Cell::new(0),
    }));
    WORLD.set(Some(world));
    for cpu in 0..CPUS - 1 {
        world.step(&Op::Online(cpu));
    }
    for (op, inner) in steps {
        *world.inner.borrow_mut() = inner.clone();
        world.step(op);
    }
    world.inner.borrow_mut().clear();
    world.settle();
    WORLD.set(None);
}
