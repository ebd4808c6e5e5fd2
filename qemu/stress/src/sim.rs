//! The scenario on the simulated machine, for whoever has no QEMU and for host tests.

use core::any::Any;
use core::fmt;
use core::future::Future;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::panic::catch_unwind;
use std::string::{String, ToString};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::vec::Vec;

use topomem::numa::FirmwareTables;
use topomem::shootdown::Unresponsive;
use topomem::sim::{Blueprint, BlueprintError, Delivery, Sim, SimBootError, SimService};
use topomem::{CpuId, Lazy, NodeId, PageRange, PageSize, Platform as _, VirtAddr};

use crate::oracle::NodeFrames;
use crate::{
    Break, Failure, Limit, NothingToDistort, Progress, Record, Rig, Run, Scenario, SetupError, Text, Truth,
    Window, distort_distances, participate,
};

/// Three entries of the root, far from where programs are.
const USER_WINDOW: u64 = 0x180_0000_0000;
const ROOT_ENTRY: u64 = 1 << 39;

/// A simulated run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The machine.
    pub machine: Blueprint,
    /// How late its interrupts arrive.
    pub delivery: Delivery,
    /// What its CPUs do.
    pub scenario: &'static Scenario,
    /// How long; the scenario's own length where `None`.
    pub limit: Option<Limit>,
    /// Where the CPUs' generators start.
    pub seed: u64,
    /// What to break, so that the run must fail.
    pub fault: Option<Break>,
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What went wrong, first things first; empty after a good run.
    pub failures: Vec<Failure>,
    /// What was done.
    pub progress: Progress,
}

impl Report {
    /// Nothing went wrong.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failures.is_empty()
    }
}

/// How long CPUs of a broken machine wait before they report another.
const SHORT_TIMEOUT: Duration = Duration::from_millis(150);
/// After how long a wait the fault is mended: the first report after the unresponsive CPU has given up, and
/// after what counts as a wait in vain.
const MENDED_AFTER: Duration = Duration::from_millis(1000);

/// Why there was no run.
#[derive(Debug)]
pub enum RunError {
    /// No such machine.
    Machine(BlueprintError),
    /// The fault cannot be had on that machine.
    Break(NothingToDistort),
    /// Its TLBs have nothing of the kind.
    Features(Break),
    /// The service did not come up.
    Boot(SimBootError),
    /// The run could not begin.
    Setup(SetupError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Machine(error) => error.fmt(f),
            RunError::Break(error) => error.fmt(f),
            RunError::Features(fault) => {
                write!(f, "the machine's TLBs have nothing that {} could break", fault.name())
            }
            RunError::Boot(error) => error.fmt(f),
            RunError::Setup(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {}

/// Runs a scenario on a simulated machine, and passes each record (a line of JSON, as the kernel
/// prints it behind `@@`) to `record`.
///
/// The machine's memory stays allocated until the process ends.
///
/// # Errors
///
/// [`RunError`] where there was no run; what goes wrong in one is in the [`Report`].
pub fn run(options: &Options, record: impl FnMut(&str) + Send) -> Result<Report, RunError> {
    if let Some(fault) = options.fault.filter(|fault| !fault.is_possible(options.machine.tlb)) {
        return Err(RunError::Features(fault));
    }
    let sim = Sim::boot(options.machine.clone(), options.delivery).map_err(RunError::Machine)?;
    let service = boot(sim, options.fault)?;
    let sink = Mutex::new(record);
    drive(sim, service, options, &|line| (sink.lock().unwrap_or_else(PoisonError::into_inner))(line))
}

/// Runs on a machine whose service is up.
fn drive(
    sim: &'static Sim,
    service: &'static SimService,
    options: &Options,
    sink: &(dyn Fn(&str) + Sync),
) -> Result<Report, RunError> {
    let unresponsive = Arc::new(OnceLock::new());
    let reports = unresponsive.clone();
    if options.fault.is_some_and(Break::stops_cpus) {
        // Who waits in vain shall find out soon.
        sim.set_unresponsive_timeout(SHORT_TIMEOUT);
    }
    sim.on_unresponsive(move |Unresponsive { cpu, generation, waited }| {
        if waited.0 >= MENDED_AFTER.as_nanos() as u64 {
            // A mistake that stops everything is mended, so that the run ends and tells of it.
            service.shootdown().inject(None);
        }
        reports.get_or_init(|| crate::Report { cpu, generation, milliseconds: waited.0 / 1_000_000 });
    });
    let rig = SimRig { sim, service, sink, unresponsive };
    if let Some(topology) = service.topology() {
        rig.report(Record::Topology {
            topology,
            stats: &|node| service.frames().stats(node),
            bookkeeping: &|node, visit| service.frames().bookkeeping(node, visit),
            address: &|byte| service.platform().virt_to_phys(byte),
        });
    }
    let truth = truth_of(sim.blueprint()).ok_or(RunError::Setup(SetupError::OutOfMemory))?;
    let scenario = options.scenario;
    let limit = options.limit.unwrap_or(scenario.limit);
    let inner = crate::Options { scenario, limit, seed: options.seed };
    let run = sim.on(CpuId::BOOT, |_| Run::new(rig, truth, inner)).map_err(RunError::Setup)?;
    let run = match options.fault {
        Some(fault) => run.with_fault(fault),
        None => run,
    };
    sim.run(|pin| {
        // SAFETY: the future is driven here, by the thread that plays the CPU, which is online;
        // nothing else runs on it.
        let future = unsafe { participate(&run, pin.cpu()) };
        let part = AssertUnwindSafe(|| {
            sim.block_on(future, || {
                service.run_pending_work(pin);
            });
        });
        if let Err(panic) = catch_unwind(part) {
            run.fail(Failure::Panicked { cpu: pin.cpu(), message: message_of(&*panic) });
            // The others must not wait for this CPU, which takes interrupts only from now on.
            run.barrier.abandon();
        }
    });
    sim.on(CpuId::BOOT, |_| run.conclude());
    let failures = run.failures().to_vec();
    let progress = run.progress();
    run.rig().report(Record::End { ok: failures.is_empty() });
    if failures.is_empty() {
        sim.on(CpuId::BOOT, |_| drop(run));
    } else {
        // Its address spaces may be in memory that is somebody else's, too.
        core::mem::forget(run);
    }
    Ok(Report { failures, progress })
}

/// What a panic says.
fn message_of(panic: &(dyn Any + Send)) -> Text {
    let literal = panic.downcast_ref::<&str>().copied();
    let formatted = || panic.downcast_ref::<String>().map(String::as_str);
    Text::display(&literal.or_else(formatted).unwrap_or("a panic without a message"))
}

fn boot(sim: &'static Sim, fault: Option<Break>) -> Result<&'static SimService, RunError> {
    let mut tables = sim.tables().clone();
    if fault == Some(Break::Distance) {
        distort_distances(&mut tables.srat, Some(&mut tables.slit)).map_err(RunError::Break)?;
    }
    let tables: FirmwareTables<'_> = tables.as_firmware();
    sim.boot_service_with(&tables).map_err(RunError::Boot)
}

/// The machine as it was built.
fn truth_of(machine: &Blueprint) -> Option<Truth> {
    let node = |index| NodeId::new(index).unwrap_or(NodeId::ZERO);
    let cpus = (0..machine.cpus()).filter_map(CpuId::new);
    let node_of_cpu = cpus.map(|cpu| machine.node_of(cpu).unwrap_or(NodeId::ZERO));
    let frames = machine.nodes.iter().enumerate().flat_map(|(index, described)| {
        described.ranges.iter().map(move |range| NodeFrames {
            first: range.start / 4096,
            count: (range.end - range.start) / 4096,
            node: node(index),
        })
    });
    let distance = |from: NodeId, to: NodeId| machine.distances[from.index()][to.index()];
    Truth::new(machine.nodes.len(), node_of_cpu, frames, distance)
}

/// How often an idle CPU walks ahead while it halts.
const LOOKS_AHEAD: u32 = 8;

/// The simulated machine as a run needs it.
struct SimRig<'s> {
    sim: &'static Sim,
    service: &'static SimService,
    sink: &'s (dyn Fn(&str) + Sync),
    unresponsive: Arc<OnceLock<crate::Report>>,
}

impl Rig for SimRig<'_> {
    type Machine = &'static Sim;

    fn service(&self) -> &'static SimService {
        self.service
    }

    fn cpus(&self) -> usize {
        self.sim.cpus().len()
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.sim.uptime().as_millis()).unwrap_or(u64::MAX)
    }

    fn kernel_window(&self) -> Option<Window> {
        let whole = PageRange::new(Sim::WINDOW, 2, PageSize::Size1GiB).ok()?;
        Some(Window { base: Sim::WINDOW, whole })
    }

    fn user_window(&self) -> Option<Window> {
        let start = VirtAddr::new_truncate(USER_WINDOW);
        Some(Window {
            base: VirtAddr::new_truncate(USER_WINDOW + ROOT_ENTRY),
            whole: PageRange::new(start, (3 * ROOT_ENTRY) >> 30, PageSize::Size1GiB).ok()?,
        })
    }

    fn load(&self, address: VirtAddr) -> Option<u64> {
        self.sim.load(address).ok()
    }

    fn store(&self, address: VirtAddr, value: u64) -> Option<()> {
        self.sim.store(address, value).ok()
    }

    /// Halts, lazily: shootdowns that need not interrupt this CPU don't.
    fn rest(&self, milliseconds: u32) -> impl Future<Output = ()> + Send {
        let until = self.milliseconds() + u64::from(milliseconds);
        core::future::poll_fn(move |context| {
            if self.milliseconds() >= until {
                return core::task::Poll::Ready(());
            }
            let pin = topomem::Platform::pin(&self.sim);
            let shootdown = self.service.shootdown();
            // SAFETY: between here and `leave_lazy` this CPU only halts and takes interrupts,
            // whose handler is the queue's own.
            unsafe { shootdown.enter_lazy(&pin, Lazy::Idle) };
            for _ in 0..LOOKS_AHEAD {
                self.sim.walk_ahead();
                self.sim.halt(Duration::from_micros(100));
            }
            shootdown.leave_lazy(&pin);
            context.waker().wake_by_ref();
            core::task::Poll::Pending
        })
    }

    fn park(&self, milliseconds: u32) {
        let until = self.sim.uptime() + Duration::from_millis(u64::from(milliseconds));
        while let Some(left) = until.checked_sub(self.sim.uptime()).filter(|left| !left.is_zero()) {
            self.sim.halt(left);
        }
    }

    fn ignore_shootdowns(&self, mut turn: impl FnMut() -> bool) {
        self.sim.mask_interrupts();
        while !turn() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.sim.unmask_interrupts();
    }

    fn reported(&self) -> Option<crate::Report> {
        self.unresponsive.get().copied()
    }

    fn report(&self, record: Record<'_>) {
        (self.sink)(&record.to_string());
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, Ordering};

    use topomem::{FrameRequest, Platform};

    use super::*;

    /// A run of two CPUs during which `mischief` is done once, on the boot CPU.
    fn failures_after(mischief: impl Fn(&'static SimService, &topomem::CpuPin) + Sync) -> Vec<Failure> {
        let machine = Sim::builder().nodes(2).cpus(2).memory(64 << 20).blueprint().unwrap();
        let options = Options {
            machine,
            delivery: Delivery::default(),
            scenario: Scenario::named("smoke").unwrap(),
            limit: None,
            seed: 3,
            fault: None,
        };
        let sim = Sim::boot(options.machine.clone(), options.delivery).unwrap();
        let service = sim.boot_service().unwrap();
        let done = AtomicBool::new(false);
        let sink = |line: &str| {
            if line.contains("progress") && !done.swap(true, Ordering::Relaxed) {
                mischief(service, &sim.pin());
            }
        };
        let report = drive(sim, service, &options, &sink).unwrap();
        assert!(done.load(Ordering::Relaxed));
        report.failures
    }

    #[test]
    fn a_lost_frame_is_missed() {
        let failures = failures_after(|service, pin| {
            service.frames().alloc(pin, &FrameRequest::frame()).unwrap();
        });
        assert!(matches!(failures[..], [Failure::LostFrames { before, after, .. }] if before == after + 1));
    }

    #[test]
    fn a_lost_object_is_missed_and_its_frames_are_not() {
        let failures = failures_after(|service, _| {
            let layout = core::alloc::Layout::new::<[u64; 5000]>();
            service.heap().unwrap().heap().try_alloc(layout).unwrap();
        });
        assert!(matches!(failures[..], [Failure::LostObjects { before, after }] if after == before + 1));
    }

    /// The other CPU must not wait for the boot CPU for ever.
    #[test]
    fn a_panic_ends_the_run() {
        let failures = failures_after(|_, _| panic!("on request"));
        let message = Text::display(&"on request");
        assert_eq!(failures, [Failure::Panicked { cpu: CpuId::BOOT, message }]);
    }

    #[test]
    fn a_good_run_has_no_failures() {
        assert_eq!(failures_after(|_, _| {}), []);
    }
}
