//! Random changes of one space by several CPUs, beside a plain model: no CPU, whose TLB keeps everything,
//! can use what a complete ticket speaks of.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use topomem::sim::{Sim, SimService};
use topomem::{
    AddressSpace, Batch, CpuId, CpuPin, FrameRequest, PageRange, PageSize, PhysFrame, Platform, Protection,
    Unmapping, VirtAddr,
};

const CPUS: usize = 3;
const PAGES: usize = 8;
const BASE: u64 = 0x10_0000_0000;

#[derive(Clone, Copy, Debug)]
enum Access {
    Read,
    Write,
}

/// A first page and a number of pages.
type Span = (usize, usize);

#[derive(Clone, Copy, Debug)]
enum Op {
    Map(usize, Access),
    Touch(usize, usize),
    Unmap(usize, Span),
    Protect(usize, Span, Access),
    Remap(usize, usize, usize),
    Pending(usize, Span),
    BatchUnmap(Span),
    BatchProtect(Span, Access),
    BatchRemap(usize, usize),
    Issue,
    Answer(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let cpu = || 0..CPUS;
    let page = || 0..PAGES;
    let span = || (0..PAGES, 1..=3usize).prop_map(|(first, len)| (first, len.min(PAGES - first)));
    let access = || prop_oneof![Just(Access::Read), Just(Access::Write)];
    prop_oneof![
        6 => (page(), access()).prop_map(|(page, access)| Op::Map(page, access)),
        6 => (cpu(), page()).prop_map(|(cpu, page)| Op::Touch(cpu, page)),
        3 => (cpu(), span()).prop_map(|(cpu, span)| Op::Unmap(cpu, span)),
        3 => (cpu(), span(), access()).prop_map(|(cpu, span, access)| Op::Protect(cpu, span, access)),
        3 => (cpu(), page(), page()).prop_map(|(cpu, from, to)| Op::Remap(cpu, from, to)),
        2 => (cpu(), span()).prop_map(|(cpu, span)| Op::Pending(cpu, span)),
        1 => span().prop_map(Op::BatchUnmap),
        1 => (span(), access()).prop_map(|(span, access)| Op::BatchProtect(span, access)),
        2 => (page(), page()).prop_map(|(from, to)| Op::BatchRemap(from, to)),
        1 => Just(Op::Issue),
        3 => cpu().prop_map(Op::Answer),
    ]
}

type Space = AddressSpace<&'static Sim>;

/// A use that is over: of a frame at a page.
#[derive(Clone, Copy, Debug)]
struct Gone {
    page: usize,
    frame: PhysFrame,
    /// Of all uses, or of writing alone.
    access: Access,
}

/// What a page is mapped to.
#[derive(Clone, Copy)]
struct Mapping {
    frame: PhysFrame,
    access: Access,
}

struct World<'s> {
    sim: &'static Sim,
    space: &'s Space,
    /// Frames that no page of this case had before.
    fresh: Vec<PhysFrame>,
    mapped: [Option<Mapping>; PAGES],
    /// All that is over so far.
    gone: Vec<Gone>,
    tickets: Vec<(Unmapping<'s, &'static Sim>, Vec<Gone>)>,
    batch: Option<(Batch<'s, 's, &'static Sim>, Vec<Gone>)>,
    pins: &'s [CpuPin; CPUS],
}

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

fn range((first, len): Span) -> PageRange {
    let start = VirtAddr::new(BASE + first as u64 * 4096).unwrap();
    PageRange::new(start, len as u64, PageSize::Size4KiB).unwrap()
}

fn protection(access: Access) -> Protection {
    match access {
        Access::Read => Protection::USER_READ_ONLY,
        Access::Write => Protection::USER_DATA,
    }
}

/// What a frame holds: its own address.
fn tag(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64()
}

impl World<'_> {
    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        let (space, sim) = (self.space, self.sim);
        match op {
            Op::Map(page, access) if self.mapped[page].is_none() => {
                let Some(frame) = self.fresh.pop() else { return Ok(()) };
                // SAFETY: the frame is this test's, which has no reference to what it holds.
                sim.on(cpu(0), |pin| unsafe {
                    space.map_borrowed(pin, range((page, 1)), frame, protection(access)).unwrap();
                });
                self.mapped[page] = Some(Mapping { frame, access });
            }
            Op::Touch(index, page) => {
                self.load(index, page);
                self.store(index, page);
            }
            Op::Unmap(index, span) => {
                let ticket = sim.on(cpu(index), |pin| space.unmap(pin, range(span)).unwrap());
                let gone = self.unmapped(span);
                self.tickets.push((ticket, gone));
            }
            Op::Protect(index, span, access) => {
                let protect = |pin: &CpuPin| space.protect(pin, range(span), protection(access)).unwrap();
                let ticket = sim.on(cpu(index), protect);
                let gone = self.protected(span, access);
                self.tickets.push((ticket, gone));
            }
            Op::Remap(index, from, to) if from != to && self.mapped[to].is_none() => {
                let remap =
                    |pin: &CpuPin| space.remap(pin, range((from, 1)), range((to, 1)).start()).unwrap();
                let ticket = sim.on(cpu(index), remap);
                let gone = self.moved(from, to);
                self.tickets.push((ticket, gone));
            }
            Op::Pending(index, span) => {
                let ticket = sim.on(cpu(index), |pin| space.pending(pin, range(span)).unwrap());
                let gone = self.of_pages(span);
                self.tickets.push((ticket, gone));
            }
            Op::BatchUnmap(span) => {
                self.in_batch(|batch| batch.unmap(range(span)).unwrap());
                let gone = self.unmapped(span);
                self.note_in_batch(gone);
            }
            Op::BatchProtect(span, access) => {
                self.in_batch(|batch| batch.protect(range(span), protection(access)).unwrap());
                let gone = self.protected(span, access);
                self.note_in_batch(gone);
            }
            Op::BatchRemap(from, to) if from != to && self.mapped[to].is_none() => {
                self.in_batch(|batch| batch.remap(range((from, 1)), range((to, 1)).start()).unwrap());
                let gone = self.moved(from, to);
                self.note_in_batch(gone);
            }
            Op::Issue => {
                if let Some((batch, gone)) = self.batch.take() {
                    let ticket = sim.on(cpu(0), |_| batch.issue());
                    self.tickets.push((ticket, gone));
                }
            }
            Op::Answer(index) => self.answer(index),
            Op::Map(..) | Op::Remap(..) | Op::BatchRemap(..) => {}
        }
        self.check()
    }

    /// CPU 0's open batch.
    fn in_batch(&mut self, change: impl FnOnce(&mut Batch<'_, '_, &'static Sim>)) {
        let (space, pins) = (self.space, self.pins);
        let (batch, _) = self.batch.get_or_insert_with(|| (space.batch(&pins[0]), Vec::new()));
        self.sim.on(cpu(0), |_| change(batch));
    }

    fn note_in_batch(&mut self, gone: Vec<Gone>) {
        if let Some((_, all)) = &mut self.batch {
            all.extend(gone);
        }
    }

    /// What is over at the pages of `span`.
    fn of_pages(&self, (first, len): Span) -> Vec<Gone> {
        self.gone.iter().filter(|gone| (first..first + len).contains(&gone.page)).copied().collect()
    }

    /// Ends uses, and returns them with all that is over at the pages of `span`, and of the same frames.
    fn end(&mut self, span: Span, now: &[Gone]) -> Vec<Gone> {
        self.gone.extend(now);
        let mut gone = self.of_pages(span);
        let same = |other: &&Gone| now.iter().any(|now| now.frame == other.frame);
        gone.extend(self.gone.iter().filter(same).copied());
        gone
    }

    fn unmapped(&mut self, span: Span) -> Vec<Gone> {
        let pages = span.0..span.0 + span.1;
        let now: Vec<_> = pages.filter_map(|page| self.take(page)).collect();
        self.end(span, &now)
    }

    fn take(&mut self, page: usize) -> Option<Gone> {
        let Mapping { frame, .. } = self.mapped[page].take()?;
        Some(Gone { page, frame, access: Access::Read })
    }

    fn protected(&mut self, span: Span, access: Access) -> Vec<Gone> {
        let mut now = Vec::new();
        for page in span.0..span.0 + span.1 {
            let Some(mapping) = &mut self.mapped[page] else { continue };
            if let (Access::Write, Access::Read) = (mapping.access, access) {
                now.push(Gone { page, frame: mapping.frame, access: Access::Write });
            }
            mapping.access = access;
        }
        self.end(span, &now)
    }

    fn moved(&mut self, from: usize, to: usize) -> Vec<Gone> {
        let mapping = self.mapped[from];
        let now: Vec<_> = self.take(from).into_iter().collect();
        self.mapped[to] = mapping;
        self.end((from, 1), &now)
    }

    /// CPU `index`, whose interrupts are masked, reads a page.
    fn load(&self, index: usize, page: usize) -> Option<u64> {
        self.sim.on(cpu(index), |_| self.sim.load(range((page, 1)).start()).ok())
    }

    /// It writes to a page what the frame that it finds there holds already: which frame, if it may.
    fn store(&self, index: usize, page: usize) -> Option<u64> {
        let holds = self.load(index, page)?;
        self.sim.on(cpu(index), |_| self.sim.store(range((page, 1)).start(), holds).ok()).map(|()| holds)
    }

    fn answer(&self, index: usize) {
        self.sim.on(cpu(index), |_| {
            self.sim.unmask_interrupts();
            self.sim.mask_interrupts();
        });
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let mut tickets = std::mem::take(&mut self.tickets);
        let mut result = Ok(());
        tickets.retain_mut(|(ticket, gone)| {
            let complete = ticket.is_complete();
            if complete && result.is_ok() {
                result = gone.iter().try_for_each(|gone| self.check_gone(gone));
            }
            !complete
        });
        self.tickets = tickets;
        result
    }

    /// No CPU has the use that is over, unless it has been given again since.
    fn check_gone(&self, gone: &Gone) -> Result<(), TestCaseError> {
        let now = self.mapped[gone.page].filter(|now| now.frame == gone.frame);
        for index in 0..CPUS {
            let (used, again) = match gone.access {
                Access::Read => (self.load(index, gone.page), now.is_some()),
                Access::Write => {
                    let again = now.is_some_and(|now| matches!(now.access, Access::Write));
                    (self.store(index, gone.page), again)
                }
            };
            prop_assert!(again || used != Some(tag(gone.frame)), "CPU {index} uses {gone:?}");
        }
        Ok(())
    }
}

/// Plays `ops` in a new space.
fn play(sim: &'static Sim, service: &'static SimService, ops: &[Op]) -> Result<(), TestCaseError> {
    let space = sim.on(cpu(0), |pin| service.create_space(pin).unwrap());
    // SAFETY: one thread plays all CPUs.
    let pins = std::array::from_fn(|index| unsafe { CpuPin::new(cpu(index)) });
    let frames: Vec<_> = (0..ops.len().min(64))
        .map(|_| sim.on(cpu(0), |pin| service.alloc(pin, &FrameRequest::frame()).unwrap()))
        .collect();
    for &frame in &frames {
        // SAFETY: the frame was just allocated, and is in the arena.
        unsafe { sim.phys_to_virt(frame.start_address()).cast::<u64>().write(tag(frame)) };
    }
    for index in 0..CPUS {
        sim.on(cpu(index), |pin| {
            // SAFETY: the CPU is online, and this is no handler.
            unsafe { space.activate(pin) };
            sim.mask_interrupts();
        });
    }
    let mut world = World {
        sim,
        space: &space,
        fresh: frames.clone(),
        mapped: [None; PAGES],
        gone: Vec::new(),
        tickets: Vec::new(),
        batch: None,
        pins: &pins,
    };
    let played = ops.iter().try_for_each(|&op| world.step(op));
    let ended = played.and_then(|()| world.step(Op::Issue)).and_then(|()| {
        (0..CPUS).for_each(|index| world.answer(index));
        world.check()?;
        prop_assert!(world.tickets.is_empty(), "a ticket does not complete");
        Ok(())
    });
    // What a failure has left open is dropped on a CPU.
    sim.on(cpu(0), |_| drop(world));
    for index in 0..CPUS {
        sim.on(cpu(index), |pin| {
            sim.unmask_interrupts();
            // SAFETY: as above.
            unsafe { service.kernel_space().unwrap().activate(pin) };
        });
    }
    drop(space);
    sim.on(cpu(0), |pin| {
        service.run_pending_work(pin);
        for frame in frames {
            // SAFETY: no space maps it any more.
            unsafe { service.frames().free(pin, frame, topomem::Order::FRAME).unwrap() };
        }
    });
    ended
}

fn run(cases: u32, prepare: impl FnOnce(&SimService)) -> Result<(), String> {
    let sim = Sim::builder().cpus(CPUS).memory(32 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    prepare(service);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let ops = prop::collection::vec(op(), 1..80);
    runner.run(&ops, |ops| play(sim, service, &ops)).map_err(|error| error.to_string())
}

#[test]
fn no_cpu_uses_what_a_complete_ticket_speaks_of() {
    run(400, |_| {}).unwrap();
}

#[cfg(feature = "fault-injection")]
mod caught {
    use topomem::shootdown::Fault;

    use super::*;

    #[test]
    fn completion_of_the_own_change_only() {
        let result = run(400, |service| service.shootdown().inject(Some(Fault::OwnChangeOnly)));
        assert!(result.unwrap_err().contains("uses"));
    }
}
