//! topomem on a simulated machine.
//!
//! The machine is booted once. Each log runs in new address spaces; afterwards no frame may be missing. Its
//! steps take turns on all CPUs, whose TLBs evict nothing by themselves, so that a missing flush shows. Accesses go through the CPU's own TLB and page tables; faults are answered by
//! the address space, and the access is made again.
//!
//! What a kernel's system calls do with their arguments before they reach the address space stands here,
//! too: error numbers, and lengths that no address space can have.

mod files;
mod process;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use topomem::region::HugePages;
use topomem::sim::{Sim, SimService};
use topomem::{AddressSpace, CpuId, CpuPin, NodeId, PendingWork};

use crate::compare::answer::{Answer, Errno};
use crate::compare::rules::Rules;
use crate::compare::scope::Scope;
use crate::compare::system::{Broken, System, Trace, execute};
use crate::log::operation::{Operation, PAGE, ProcessId};
use crate::log::slots::{Layout, Slots};
use crate::log::{Log, Step};
use crate::model::STACK_PAGES;
use files::Files;
use process::{SimProcess, address};

type Space = AddressSpace<&'static Sim>;

/// Where the first window lies: its ends share tables with what lies beside it.
const WINDOW: u64 = 0x1000_0010_0000;
/// Nodes of the machine.
const NODES: usize = 2;
const HEAP: u64 = 0x5555_0000_0000;

/// topomem on a simulated machine.
#[derive(Debug)]
pub struct SimSystem {
    cpus: usize,
    sim: &'static Sim,
    service: &'static SimService,
    huge: HugePages,
    around: u64,
}

impl SimSystem {
    /// Boots a machine with two nodes.
    ///
    /// # Errors
    ///
    /// If the host has too little memory.
    pub fn boot(cpus: usize) -> Result<SimSystem, Box<dyn std::error::Error>> {
        let sim = Sim::builder().nodes(NODES).cpus(cpus).memory(64 << 20).build()?;
        let service = sim.boot_service()?;
        Ok(SimSystem { cpus, sim, service, huge: HugePages::Never, around: 1 })
    }

    /// Lets the processes of logs have pages of 2 MiB as `huge` says, and lets each first write map `around`
    /// pages: no answer may differ for it.
    #[must_use]
    pub fn with_faults(self, huge: HugePages, around: u64) -> SimSystem {
        SimSystem { huge, around, ..self }
    }

    /// Makes a new space ready for a log.
    fn prepare(&self, space: &Space, layout: Layout) -> Result<(), Errno> {
        space.set_heap_start(address(layout.heap)?);
        space.set_stack_limit(STACK_PAGES * PAGE);
        space.set_huge_pages(self.huge);
        space.set_fault_around(self.around);
        Ok(())
    }

    /// Runs a log on each CPU at the same time, all in one address space. Each log has a window of its own;
    /// windows share page tables. Only the first log has a heap.
    ///
    /// # Errors
    ///
    /// [`Broken`] if frames are missing afterwards.
    pub fn run_together(&mut self, logs: &[Log]) -> Result<Vec<Trace>, Broken> {
        let (sim, service) = (self.sim, self.service);
        let before = sim.on(CpuId::BOOT, |pin| self.settle(pin));
        let broken = |reason: String| Broken { step: 0, reason };
        let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin));
        let space = space.map_err(|error| broken(error.to_string()))?;
        self.prepare(&space, layout_of(0)).map_err(|error| broken(format!("{error:?}")))?;
        let traces = sim.run(|pin| {
            let cpu = pin.cpu().index();
            let layout = layout_of(cpu);
            // SAFETY: the CPU is online, and this is no handler.
            unsafe { space.activate(pin) };
            let trace = logs.get(cpu).map(|log| {
                let files = Files::create(sim, service, pin)?;
                let process = SimProcess { sim, service, pin, space: &space, files: &files };
                Ok(run_in(process, layout, log))
            });
            self.leave(pin);
            trace
        });
        let traces: Result<Vec<Trace>, Errno> = traces.into_iter().flatten().collect();
        sim.on(CpuId::BOOT, |pin| {
            drop(space);
            let missing = before.cast_signed() - self.settle(pin).cast_signed();
            if missing != 0 {
                return Err(broken(format!("{missing} frames are missing")));
            }
            traces.map_err(|error| broken(format!("{error:?}")))
        })
    }

    /// Makes the CPU use the kernel's address space.
    fn leave(&self, pin: &CpuPin) {
        if let Some(kernel) = self.service.kernel_space() {
            // SAFETY: the CPU is online, and this is no handler.
            unsafe { kernel.activate(pin) };
        }
    }

    /// Finishes what is due, and returns how many frames are free.
    fn settle(&self, pin: &CpuPin) -> u64 {
        while self.service.run_pending_work(pin) != PendingWork::Done {
            self.sim.take_interrupts();
        }
        let nodes = (0..NODES).filter_map(NodeId::new);
        let stats = nodes.filter_map(|node| self.service.frames().stats(node));
        stats.map(|stats| stats.all_free()).sum()
    }

    /// Runs a log whose steps take turns on all CPUs.
    fn run_in_turn(&self, log: &Log) -> Result<Trace, String> {
        let (sim, layout) = (self.sim, layout_of(0));
        let before = sim.on(CpuId::BOOT, |pin| self.settle(pin));
        let first =
            sim.on(CpuId::BOOT, |pin| self.service.create_space(pin)).map_err(|error| error.to_string())?;
        self.prepare(&first, layout).map_err(|error| format!("{error:?}"))?;
        let files = sim.on(CpuId::BOOT, |pin| Files::create(sim, self.service, pin));
        let files = files.map_err(|error| format!("{error:?}"))?;
        let family = Mutex::new(Family {
            spaces: HashMap::from([(ProcessId::FIRST, Arc::new(first))]),
            slots: Slots::new(layout),
            answers: Vec::new(),
        });
        let turn = AtomicUsize::new(0);
        let results = sim.run(|pin| {
            let mut active = None;
            let mut result = Ok(());
            for (index, step) in log.steps.iter().enumerate() {
                if self.cpu_of(index) != pin.cpu().index() {
                    continue;
                }
                // Acquire: pairs with the Release below; the mutex orders the rest.
                while turn.load(Ordering::Acquire) != index {
                    sim.take_interrupts();
                    std::hint::spin_loop();
                    std::thread::yield_now();
                }
                let mut family = family.lock().unwrap_or_else(PoisonError::into_inner);
                if result.is_ok() {
                    result = family.step(self, pin, &files, index, step, &mut active);
                }
                drop(family);
                turn.store(index + 1, Ordering::Release);
            }
            self.leave(pin);
            drop(active);
            result
        });
        results.into_iter().collect::<Result<(), String>>()?;
        let family = family.into_inner().unwrap_or_else(PoisonError::into_inner);
        sim.on(CpuId::BOOT, |pin| {
            drop(family.spaces);
            drop(files);
            let missing = before.cast_signed() - self.settle(pin).cast_signed();
            if missing == 0 {
                Ok(Trace { layout, answers: family.answers })
            } else {
                Err(format!("{missing} frames are missing"))
            }
        })
    }

    /// Returns the CPU that does a step: another one for most steps, so that CPUs meet translations that they
    /// cached some steps ago.
    fn cpu_of(&self, step: usize) -> usize {
        (step.wrapping_mul(0x9e37_79b9) >> 8) % self.cpus
    }
}

/// The processes of a log.
struct Family {
    /// Those that have ended, too: a CPU may have their space loaded.
    spaces: HashMap<ProcessId, Arc<Space>>,
    slots: Slots,
    answers: Vec<(usize, Answer)>,
}

impl Family {
    /// Does a step on the CPU that `pin` is, which has the space `active`.
    fn step(
        &mut self,
        system: &SimSystem,
        pin: &CpuPin,
        files: &Files,
        index: usize,
        step: &Step,
        active: &mut Option<(ProcessId, Arc<Space>)>,
    ) -> Result<(), String> {
        let Step(by, operation) = step;
        let space = match active {
            Some((process, space)) if process == by => Arc::clone(space),
            _ => {
                let space = Arc::clone(self.spaces.get(by).ok_or("no such process")?);
                // SAFETY: the CPU is online, and this is no handler.
                unsafe { space.activate(pin) };
                *active = Some((*by, Arc::clone(&space)));
                space
            }
        };
        if let Operation::Fork(child) = operation {
            let copy = space.fork(pin).map_err(|error| error.to_string())?;
            self.spaces.insert(*child, Arc::new(copy));
        }
        let SimSystem { sim, service, .. } = *system;
        let mut process = SimProcess { sim, service, pin, space: &space, files };
        let answers = &mut self.answers;
        execute(&mut process, operation, &mut self.slots, &mut |answer| answers.push((index, answer)));
        Ok(())
    }
}

impl System for SimSystem {
    fn name(&self) -> String {
        "topomem".to_owned()
    }

    fn rules(&self) -> Rules {
        Rules::TOPOMEM
    }

    fn adapt(&self, log: &Log) -> Log {
        Scope::TOPOMEM.adapt(log)
    }

    fn run(&mut self, log: &Log) -> Result<Trace, Broken> {
        let result = catch_unwind(AssertUnwindSafe(|| self.run_in_turn(log)))
            .unwrap_or_else(|_| Err("a panic".to_owned()));
        if result.is_err() {
            // The machine may have kept what the log left behind.
            let fresh = SimSystem::boot(self.cpus);
            *self = fresh.map_err(|error| Broken { step: 0, reason: error.to_string() })?;
        }
        result.map_err(|reason| Broken { step: 0, reason })
    }
}

fn layout_of(cpu: usize) -> Layout {
    let cpu = cpu as u64;
    Layout { window: WINDOW + cpu * (4 << 20), heap: HEAP + cpu * (4 << 20) }
}

fn run_in(mut process: SimProcess<'_>, layout: Layout, log: &Log) -> Trace {
    let mut slots = Slots::new(layout);
    let mut answers = Vec::new();
    for (index, Step(_, operation)) in log.steps.iter().enumerate() {
        execute(&mut process, operation, &mut slots, &mut |answer: Answer| answers.push((index, answer)));
    }
    Trace { layout, answers }
}
