//! One run: what its CPUs share.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use spin::Mutex;
use topomem::address_space::CreateError;
use topomem::object::PagerQueue;
use topomem::{AddressSpace, CpuId, Platform};

#[cfg(feature = "fault-injection")]
use crate::breakage::Break;
use crate::oracle::{Ownership, Space, Truth};
use crate::outcome::account::Account;
use crate::outcome::failure_log::KEPT;
use crate::outcome::summary;
use crate::rig::Window;
use crate::scenario::{Course, Limit, Scenario};
use crate::shared::barrier::Barrier;
use crate::shared::file::SharedFile;
use crate::shared::rendezvous::Rendezvous;
use crate::shared::ring::TransferQueues;
use crate::shared::shared_space::SharedSpace;
use crate::shared::unresponsive::UnresponsiveCpu;
use crate::{Failure, FailureLog, Progress, Record, Rig};

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The mix of operations.
    pub scenario: &'static Scenario,
    /// How long.
    pub limit: Limit,
    /// Where the CPUs' generators start.
    pub seed: u64,
}

/// Why a run could not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetupError {
    /// No memory for the oracle's own account.
    OutOfMemory,
    /// The service has not been booted completely.
    NotBooted,
    /// The machine has no addresses for it.
    NoWindow,
    /// No address space could be created.
    Space(CreateError),
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SetupError::OutOfMemory => f.write_str("no memory for the oracle's account"),
            SetupError::NoWindow => f.write_str("the machine has no addresses to map at"),
            SetupError::NotBooted => f.write_str("the service has not been booted completely"),
            SetupError::Space(error) => core::fmt::Display::fmt(error, f),
        }
    }
}

impl core::error::Error for SetupError {}

/// What a CPU counts, on lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub operations: AtomicU64,
    pub allocations: AtomicU64,
    pub waits: AtomicU64,
    pub changes: AtomicU64,
    pub probes: AtomicU64,
    pub absences: AtomicU64,
    /// By space: how many large pages this CPU has mapped and unmapped.
    large_pages: [AtomicU64; SPACES],
}

/// The kernel's space and two of users.
const SPACES: usize = 3;

/// A run of a scenario on all CPUs of a rig.
///
/// Made once, then driven by one [`participate`](crate::participate) on each CPU; afterwards
/// [`Run::failures`] tells how it went.
pub struct Run<R: Rig> {
    pub(crate) rig: R,
    pub(crate) options: Options,
    pub(crate) truth: Truth,
    pub(crate) ownership: Ownership,
    pub(crate) transfers: TransferQueues,
    pub(crate) barrier: Barrier,
    pub(crate) spaces: ArrayVec<SharedSpace<R::Machine>, SPACES>,
    pub(crate) counters: Vec<Counters>,
    pub(crate) baseline: Mutex<Option<Account>>,
    pub(crate) unresponsive: UnresponsiveCpu,
    pub(crate) rendezvous: Rendezvous,
    /// The same for regions.
    pub(crate) witnessed: Rendezvous,
    /// What CPUs ask the pager of [`Run::file`]; `None` in scenarios without regions.
    pub(crate) requests: Option<&'static PagerQueue<R::Machine>>,
    /// A file that all CPUs map, while they work.
    pub(crate) file: Mutex<Option<Arc<SharedFile<R::Machine>>>>,
    /// How many CPUs are online.
    present: AtomicUsize,
    failures: FailureLog,
    stopped: AtomicBool,
    started: AtomicU64,
    #[cfg(feature = "fault-injection")]
    fault: Option<Break>,
}

/// Where user spaces place regions by themselves: 512 GiB below where they could, so that whole entries of the
/// root serve them.
const BELOW_THE_TOP: u64 = 1 << 27;

/// Slots in each shared address space.
const SLOTS: u16 = 32;

impl<R: Rig> Run<R> {
    /// Prepares a run on `rig`, whose machine truly is as `truth` says. On a CPU that is online.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn new(rig: R, truth: Truth, options: Options) -> Result<Run<R>, SetupError> {
        let cpus = rig.cpus();
        let frames = truth.frames().iter().map(|run| (run.first, run.count));
        let ownership = Ownership::new(frames).ok_or(SetupError::OutOfMemory)?;
        let transfers = TransferQueues::new(cpus).ok_or(SetupError::OutOfMemory)?;
        let mut counters = Vec::new();
        counters.try_reserve_exact(cpus).map_err(|_| SetupError::OutOfMemory)?;
        counters.resize_with(cpus, Counters::default);
        let mut run = Run {
            barrier: Barrier::new(cpus),
            rig,
            options,
            truth,
            ownership,
            transfers,
            spaces: ArrayVec::new(),
            counters,
            baseline: Mutex::new(None),
            unresponsive: UnresponsiveCpu::default(),
            rendezvous: Rendezvous::default(),
            witnessed: Rendezvous::default(),
            requests: None,
            file: Mutex::new(None),
            present: AtomicUsize::new(cpus),
            failures: FailureLog::default(),
            stopped: AtomicBool::new(false),
            started: AtomicU64::new(0),
            #[cfg(feature = "fault-injection")]
            fault: None,
        };
        let service = run.rig.service();
        if options.scenario.weights.regions > 0 {
            // For good: requests are answered whether the run is there or not.
            run.requests = Some(Box::leak(Box::new(PagerQueue::new(*service.platform()))));
        }
        let kernel = service.kernel_space().ok_or(SetupError::NotBooted)?;
        let window = run.rig.kernel_window().ok_or(SetupError::NoWindow)?;
        run.add_space(Space::Kernel, kernel, window)?;
        for number in [1, 2] {
            let space = service
                .create_randomized_space(&service.platform().pin(), BELOW_THE_TOP)
                .map_err(SetupError::Space)?;
            let window = run.rig.user_window().ok_or(SetupError::NoWindow)?;
            run.add_space(Space::Shared(number), space, window)?;
        }
        Ok(run)
    }

    fn add_space(
        &mut self,
        name: Space,
        space: AddressSpace<R::Machine>,
        window: Window,
    ) -> Result<(), SetupError> {
        let first = self.spaces.len() as u16 * SLOTS;
        let shared = SharedSpace::new(name, space, window, first..first + SLOTS);
        self.spaces.push(shared.ok_or(SetupError::OutOfMemory)?);
        Ok(())
    }

    /// How many large pages `cpu` has mapped and unmapped in the space numbered `space`.
    pub(crate) fn large_pages(&self, cpu: CpuId, space: usize) -> &AtomicU64 {
        &self.counters(cpu).large_pages[space % SPACES]
    }

    /// The machine that it runs on.
    pub const fn rig(&self) -> &R {
        &self.rig
    }

    /// What went wrong so far, first things first.
    pub fn failures(&self) -> ArrayVec<Failure, KEPT> {
        self.failures.failures()
    }

    /// Reports the summary of each node and CPU, and what went wrong. To be called once, when each
    /// CPU's [`participate`](crate::participate) has ended.
    pub fn conclude(&self) {
        self.rig.report(Record::Progress(self.progress()));
        summary::nodes(self, |summary| self.rig.report(Record::Node(summary)));
        summary::cpus(self, |summary| self.rig.report(Record::Cpu(summary)));
        for failure in &self.failures() {
            self.rig.report(Record::Failure(failure));
        }
    }

    /// Sums over all CPUs.
    pub fn progress(&self) -> Progress {
        // Relaxed: counts order nothing.
        let sum = |count: fn(&Counters) -> &AtomicU64| {
            self.counters.iter().map(|counters| count(counters).load(Ordering::Relaxed)).sum()
        };
        Progress {
            milliseconds: self.elapsed(),
            operations: sum(|counters| &counters.operations),
            allocations: sum(|counters| &counters.allocations),
            waits: sum(|counters| &counters.waits),
            changes: sum(|counters| &counters.changes),
            probes: sum(|counters| &counters.probes),
            absences: sum(|counters| &counters.absences),
        }
    }

    /// Notes and reports a failure, and ends the run.
    pub(crate) fn fail(&self, failure: Failure) {
        self.failures.add(failure);
        self.stop();
    }

    /// Ends the run.
    pub(crate) fn stop(&self) {
        // Relaxed: the other CPUs look at it now and then.
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// May one more CPU go off? If so, it counts as gone until [`Run::arrive`].
    #[allow(deprecated, reason = "`try_update` is newer than `rust-version`")]
    pub(crate) fn depart(&self) -> bool {
        // Relaxed: only the number matters.
        let fewer = |present| if present > 1 { Some(present - 1) } else { None };
        self.present.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok()
    }

    /// The CPU of a [`Run::depart`] is back.
    pub(crate) fn arrive(&self) {
        self.present.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Is the run to end, by time or by a failure?
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn counters(&self, cpu: CpuId) -> &Counters {
        &self.counters[cpu.index()]
    }

    /// Breaks `fault` when the operations begin: not before, so that what it breaks is the
    /// scenario's to see, and not the kernel's own memory.
    #[cfg(feature = "fault-injection")]
    #[must_use]
    pub const fn with_fault(mut self, fault: Break) -> Run<R> {
        self.fault = Some(fault);
        self
    }

    /// What is broken, if anything.
    #[cfg(feature = "fault-injection")]
    pub(crate) const fn fault(&self) -> Option<Break> {
        self.fault
    }

    /// Marks the beginning of the operations.
    pub(crate) fn start(&self) {
        #[cfg(feature = "fault-injection")]
        if let Some(fault) = self.fault {
            fault.inject(self.rig.service());
        }
        self.started.store(self.rig.milliseconds(), Ordering::Relaxed);
    }

    pub(crate) fn elapsed(&self) -> u64 {
        self.rig.milliseconds().saturating_sub(self.started.load(Ordering::Relaxed))
    }

    /// Is a CPU that has finished `operations` done?
    pub(crate) fn is_over(&self, operations: u64) -> bool {
        if self.options.scenario.course == Course::OneIsUnresponsive {
            return self.is_stopped();
        }
        let limit_reached = match self.options.limit {
            Limit::Operations(limit) => operations >= limit,
            // The clock costs more than most operations: look now and then.
            Limit::Milliseconds(limit) => operations.is_multiple_of(8) && self.elapsed() >= limit,
        };
        if limit_reached && matches!(self.options.limit, Limit::Milliseconds(_)) {
            self.stop();
        }
        limit_reached || self.is_stopped()
    }
}

impl<R: Rig> core::fmt::Debug for Run<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Run").field("options", &self.options).finish_non_exhaustive()
    }
}
