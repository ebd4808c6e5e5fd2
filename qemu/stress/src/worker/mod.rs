//! One CPU's part of a run.

mod absences;
mod frames;
mod mappings;
mod regions;
mod spaces;
mod unresponsive;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use topomem::shootdown::Tlb;
use topomem::{CpuId, CpuPin, Order};

use crate::Text;
use crate::oracle::{Holder, Space};
use crate::random::Random;
use crate::shared::transfer::{HeldFrames, HeldObject, Transfer};
use crate::{Failure, Rig, Run};
use mappings::changes::Poisoned;
use regions::{Child, LastWrite};

/// How many runs of frames, and how many objects, a CPU holds at most.
const HELD: usize = 192;

/// One CPU's state.
pub(crate) struct Worker<'r, R: Rig> {
    pub run: &'r Run<R>,
    pub cpu: CpuId,
    pub pin: CpuPin,
    random: Random,
    frames: Vec<HeldFrames>,
    objects: Vec<HeldObject>,
    /// Frames that were unmapped from slots and poisoned, until they are looked at again.
    poisoned: ArrayVec<Poisoned, 8>,
    /// How many frames it may hold: its part of what the scenario takes.
    budget: u64,
    holding: u64,
    /// The largest order that was not refused since this CPU last made room.
    filling: Order,
    serial: u32,
    /// How many frames it may still retire.
    retirements: u32,
    /// When it goes off next, in milliseconds of the run.
    next_absence: u64,
    /// Which of the run's spaces is active.
    active: usize,
    /// By space and page: what this CPU has written.
    last_writes: Vec<LastWrite>,
    /// A copy of a shared space.
    child: Option<Child<R>>,
}

/// After how many timeouts of a shootdown's waiter a step counts as one that would never
/// have ended.
const LONGEST_STEP: u64 = 4;

/// Index of the kernel's space among a run's.
const KERNEL: usize = 0;

impl<'r, R: Rig> Worker<'r, R> {
    /// The worker of the CPU of `pin`; `None` without memory for what it holds.
    pub(crate) fn new(run: &'r Run<R>, pin: CpuPin) -> Option<Worker<'r, R>> {
        let cpu = pin.cpu();
        let mut frames = Vec::new();
        frames.try_reserve_exact(HELD).ok()?;
        let mut objects = Vec::new();
        objects.try_reserve_exact(HELD).ok()?;
        let total: u64 = run.truth.frames().iter().map(|frames| frames.count).sum();
        Some(Worker {
            run,
            cpu,
            pin,
            random: Random::new(run.options.seed, cpu.index() as u64),
            frames,
            objects,
            poisoned: ArrayVec::new(),
            budget: run.options.scenario.share.of(total) / run.rig.cpus() as u64,
            holding: 0,
            filling: Order::HUGE,
            serial: 0,
            retirements: frames::bad_frames::RETIREMENTS,
            next_absence: 0,
            active: KERNEL,
            last_writes: LastWrite::room(run.spaces.len())?,
            child: None,
        })
    }

    /// Operations until the run is over.
    pub(crate) async fn work(&mut self) {
        let platform = *self.run.rig.service().platform();
        let mut operations = 0;
        let mut next_report = 0;
        while !self.run.is_over(operations) {
            let begun = platform.now();
            self.step().await;
            let (took, timeout) = (platform.now().since(begun), platform.unresponsive_timeout());
            if took.0 > timeout.0.saturating_mul(LONGEST_STEP) {
                let timeouts = took.0 / timeout.0.max(1);
                self.run.fail(Failure::WaitedInVain { cpu: self.cpu, timeouts });
            }
            operations += 1;
            self.run.counters(self.cpu).operations.fetch_add(1, Ordering::Relaxed);
            if self.cpu == CpuId::BOOT && operations.is_multiple_of(16) {
                self.report(&mut next_report);
            }
            if operations.is_multiple_of(8) {
                self.be_absent_at_times();
            }
            // Let this CPU's service tasks run.
            if operations.is_multiple_of(4) {
                yield_now().await;
            }
        }
    }

    fn report(&self, next: &mut u64) {
        const EVERY: u64 = 500;
        let progress = self.run.progress();
        if progress.milliseconds >= *next {
            *next = progress.milliseconds + EVERY;
            self.run.rig.report(crate::Record::Progress(progress));
        }
    }

    async fn step(&mut self) {
        if self.join_pair() {
            return;
        }
        let weights = self.run.options.scenario.weights;
        let mut draw = self.random.below(u64::from(weights.total())) as u32;
        let mut is_drawn = |weight: u32| {
            let drawn = draw < weight;
            draw = draw.wrapping_sub(weight);
            drawn
        };
        if is_drawn(weights.frames) {
            self.frames_step();
        } else if is_drawn(weights.waits) {
            self.wait_step().await;
        } else if is_drawn(weights.objects) {
            self.objects_step();
        } else if is_drawn(weights.changes) {
            self.change_step().await;
        } else if is_drawn(weights.probes) {
            self.probe_step();
        } else if is_drawn(weights.switches) {
            self.switch_step().await;
        } else if is_drawn(weights.sizes) {
            self.sizes_step().await;
        } else if is_drawn(weights.regions) {
            self.regions_step();
        } else {
            self.activate(KERNEL);
            // What changes meanwhile must be in the TLB before, and not after.
            self.look_around(KERNEL);
            self.run.rig.rest(2).await;
            self.look_around(KERNEL);
        }
        self.receive_transfers();
    }

    /// Takes in, checks and frees what other CPUs have sent.
    pub(crate) fn receive_transfers(&mut self) {
        for sender in 0..self.run.rig.cpus() {
            while let Some(message) = self.run.transfers.ring(sender, self.cpu.index()).pop() {
                match Transfer::decode(message) {
                    Some(Transfer::Frames(held)) => self.free_frames(held),
                    Some(Transfer::Object(held)) => self.free_object(held),
                    None => self.refused("decoding a message", Text::debug(&message)),
                }
            }
        }
    }

    /// Sends `transfer` to another CPU, or gives it back where that is impossible.
    fn send(&mut self, transfer: Transfer) -> Result<(), Transfer> {
        let to = self.random.index(self.run.rig.cpus());
        self.run.transfers.ring(self.cpu.index(), to).push(transfer.encode()).map_err(|_| transfer)
    }

    /// Gives back everything that this CPU holds, but for messages and slots.
    pub(crate) fn give_back(&mut self) {
        self.activate(KERNEL);
        self.drop_child();
        while let Some(held) = self.frames.pop() {
            self.holding -= held.order.frames();
            self.free_frames(held);
        }
        while let Some(held) = self.objects.pop() {
            self.free_object(held);
        }
        while let Some(poisoned) = self.poisoned.pop_at(0) {
            self.inspect(poisoned);
        }
    }

    fn next_holder(&mut self, order: Order) -> Holder {
        self.serial = self.serial.wrapping_add(1);
        Holder::new(self.cpu, order, self.serial)
    }

    pub(crate) fn refused(&self, operation: &'static str, error: Text) {
        self.run.fail(Failure::Refused { cpu: self.cpu, operation, error });
    }

    fn space_name(&self, index: usize) -> Space {
        self.run.spaces[index].name
    }
}

/// Pending once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    core::future::poll_fn(|context| {
        if yielded {
            return core::task::Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        core::task::Poll::Pending
    })
    .await;
}
