//! topomem on a simulated machine.
//!
//! The machine is booted once. Each log runs in new address spaces; afterwards no frame may be missing. Its
//! steps take turns on all CPUs, whose TLBs evict nothing by themselves, so that a missing flush shows. Accesses go through the CPU's own TLB and page tables; faults are answered by
//! the address space, and the access is made again.
//!
//! What a kernel's system calls do with their arguments before they reach the address space stands here,
//! too: error numbers, and lengths that no address space can have.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use topomem::region::{
    Advice as Advised, FaultAccess, FaultError, HugePages, Kind, MadviseError, MapRequest, MmapError,
    MprotectError, MremapError, MunmapError, PageFault, Placement as Placed, Populate, Relocation,
};
use topomem::sim::{Access as Accessed, Privilege, Sim, SimService};
use topomem::{Access as Permitted, AddressSpace, CpuId, CpuPin, NodeId, Tended, VirtAddr};

use crate::answer::{Answer, Errno, Fault, Listed, Rest, Shows, View};
use crate::log::{Log, Step};
use crate::model::STACK_PAGES;
use crate::operation::{
    Access, Advice, Call, Map, OFFSETS, Operation, PAGE, Placement, ProcessId, Protection, RemapFlags,
    Sharing, Source,
};
use crate::rules::Rules;
use crate::slots::{Layout, Slots, TOP};
use crate::system::{Broken, Process, System, Trace, execute};

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
            let trace = logs.get(cpu).map(|log| run_in(sim, pin, &space, layout, log));
            self.leave(pin);
            trace
        });
        sim.on(CpuId::BOOT, |pin| {
            drop(space);
            let missing = before.cast_signed() - self.settle(pin).cast_signed();
            if missing != 0 {
                return Err(broken(format!("{missing} frames are missing")));
            }
            Ok(traces.into_iter().flatten().collect())
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
        while self.service.tend(pin) != Tended::Done {
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
                    result = family.step(sim, pin, index, step, &mut active);
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
        sim: &'static Sim,
        pin: &CpuPin,
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
        let mut process = SimProcess { sim, pin, space: &space };
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

/// Makes a space what a log expects.
fn layout_of(cpu: usize) -> Layout {
    let cpu = cpu as u64;
    Layout { window: WINDOW + cpu * (4 << 20), heap: HEAP + cpu * (4 << 20) }
}

fn run_in(sim: &'static Sim, pin: &CpuPin, space: &Space, layout: Layout, log: &Log) -> Trace {
    let mut process = SimProcess { sim, pin, space };
    let mut slots = Slots::new(layout);
    let mut answers = Vec::new();
    for (index, Step(_, operation)) in log.steps.iter().enumerate() {
        execute(&mut process, operation, &mut slots, &mut |answer: Answer| answers.push((index, answer)));
    }
    Trace { layout, answers }
}

/// A process, as the CPU that runs it.
struct SimProcess<'a> {
    sim: &'static Sim,
    pin: &'a CpuPin,
    space: &'a Space,
}

fn address(address: u64) -> Result<VirtAddr, Errno> {
    VirtAddr::new(address).map_err(|_| Errno::ENOMEM)
}

/// Returns the end of a range, if it is a number.
fn end_of(at: u64, length: u64) -> Option<u64> {
    at.checked_add(length.checked_next_multiple_of(PAGE)?)
}

/// Returns the access that a protection is. Write-only and execute-only mappings do not exist.
fn access_of(protection: Protection) -> Result<Permitted, Errno> {
    match protection {
        Protection::NONE => Ok(Permitted::NONE),
        Protection::READ => Ok(Permitted::READ),
        Protection::READ_WRITE => Ok(Permitted::WRITE),
        Protection(5) => Ok(Permitted::EXECUTE),
        _ => Err(Errno::EINVAL),
    }
}

impl SimProcess<'_> {
    fn map(&self, map: &Map<u64>) -> Result<u64, Errno> {
        if !map.offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if map.source != Source::Anonymous || map.sharing != Sharing::Private {
            return Err(Errno::ENOSYS);
        }
        let placement = match map.placement {
            Placement::Anywhere => Placed::Anywhere,
            Placement::Hint(at) => Placed::Hint(address(at)?),
            Placement::Fixed(at) | Placement::Unoccupied(at) => {
                if map.length != 0 && at > TOP.saturating_sub(map.length) {
                    return Err(Errno::ENOMEM);
                }
                let at = address(at)?;
                let is_fixed = matches!(map.placement, Placement::Fixed(_));
                if is_fixed { Placed::Fixed(at) } else { Placed::FixedNoReplace(at) }
            }
        };
        let populate = if map.populate { Populate::Now } else { Populate::OnDemand };
        let kind = if map.grows_down { Kind::Stack } else { Kind::Anonymous };
        let request = MapRequest::anonymous(map.length).kind(kind).access(access_of(map.protection)?);
        match self.space.mmap(self.pin, &request.placed(placement).populate(populate)) {
            Ok(start) => Ok(start.as_u64()),
            Err(MmapError::Empty | MmapError::Misaligned(_)) => Err(Errno::EINVAL),
            Err(MmapError::Occupied(_)) => Err(Errno::EEXIST),
            Err(_) => Err(Errno::ENOMEM),
        }
    }

    fn protect(&self, at: u64, length: u64, protection: Protection) -> Result<u64, Errno> {
        if length != 0 && end_of(at, length).is_none() {
            return Err(if at.is_multiple_of(PAGE) { Errno::ENOMEM } else { Errno::EINVAL });
        }
        // What lies above the top is a hole; what lies below changes nevertheless.
        let below = length.min(TOP.saturating_sub(at));
        match self.space.mprotect(self.pin, address(at)?, below, access_of(protection)?) {
            Ok(unmapping) => unmapping.wait(self.pin),
            Err(MprotectError::Misaligned(_)) => return Err(Errno::EINVAL),
            Err(_) => return Err(Errno::ENOMEM),
        }
        if below == length { Ok(0) } else { Err(Errno::ENOMEM) }
    }

    fn advise(&self, at: u64, length: u64, advice: Advice) -> Result<u64, Errno> {
        let advice = match advice {
            Advice::DontNeed | Advice::DontNeedLocked | Advice::Free => Advised::DontNeed,
            Advice::DontFork => Advised::DontFork,
            Advice::DoFork | Advice::KeepOnFork => Advised::DoFork,
            Advice::WipeOnFork => Advised::WipeOnFork,
            Advice::HugePage | Advice::NoHugePage => Advised::Normal,
            Advice::PopulateRead => Advised::PopulateRead,
            Advice::PopulateWrite => Advised::PopulateWrite,
            Advice::GuardInstall => Advised::GuardInstall,
            Advice::GuardRemove => Advised::GuardRemove,
            Advice::Remove | Advice::Unknown => return Err(Errno::EINVAL),
        };
        if end_of(at, length).is_none() {
            return Err(Errno::EINVAL);
        }
        match self.space.madvise(self.pin, address(at)?, length, advice) {
            Ok(unmapping) => unmapping.wait(self.pin),
            Err(MadviseError::Misaligned(_) | MadviseError::Denied(_)) => return Err(Errno::EINVAL),
            Err(MadviseError::Guarded(_)) => return Err(Errno::EFAULT),
            Err(_) => return Err(Errno::ENOMEM),
        }
        Ok(0)
    }

    fn remap(&self, at: u64, old: u64, new: u64, flags: RemapFlags, to: Option<u64>) -> Result<u64, Errno> {
        if flags.unknown || new > TOP || to.is_some() && !flags.may_move {
            return Err(Errno::EINVAL);
        }
        let wrong = |_| Errno::EINVAL;
        let moved = |moved: Result<VirtAddr, MremapError>| match moved {
            Ok(start) => Ok(start.as_u64()),
            Err(MremapError::Misaligned(_) | MremapError::Empty | MremapError::Overlap) => Err(Errno::EINVAL),
            Err(MremapError::NoRegion(_)) => Err(Errno::EFAULT),
            Err(_) => Err(Errno::ENOMEM),
        };
        if flags.keep_source {
            let rounded = |length: u64| length.checked_next_multiple_of(PAGE).unwrap_or(0);
            if !flags.may_move || rounded(old) != rounded(new) || rounded(new) == 0 {
                return Err(Errno::EINVAL);
            }
            let to = to.map(address).transpose().map_err(wrong)?;
            return moved(self.space.move_contents(self.pin, address(at).map_err(wrong)?, old, to));
        }
        let relocation = match to {
            Some(to) => Relocation::Fixed(address(to).map_err(wrong)?),
            None if flags.may_move => Relocation::MayMove,
            None => Relocation::InPlace,
        };
        moved(self.space.mremap(self.pin, address(at).map_err(wrong)?, old, new, relocation))
    }

    /// Makes an access possible, or says why it is not. The word must be aligned.
    fn fault_in(&self, word: u64, access: Access) -> Result<VirtAddr, Fault> {
        let word = address(word).map_err(|_| Fault::Unmapped)?;
        let (accessed, tried) = match access {
            Access::Read => (Accessed::Read, FaultAccess::Read),
            Access::Write(_) => (Accessed::Write, FaultAccess::Write),
            Access::Execute => (Accessed::Execute, FaultAccess::Execute),
        };
        while self.sim.probe(word, accessed, Privilege::User).is_err() {
            match self.space.on_page_fault(self.pin, PageFault::new(word, tried)) {
                Ok(_) => {}
                Err(FaultError::NotMapped | FaultError::Guarded) => return Err(Fault::Unmapped),
                Err(FaultError::Denied) => return Err(Fault::Denied),
                // SIGKILL: memory has run out.
                Err(_) => return Err(Fault::Other { signal: 9, code: 0 }),
            }
        }
        Ok(word)
    }

    fn load(&self, word: u64) -> Result<[u8; 8], Fault> {
        let word = self.fault_in(word, Access::Read)?;
        let value = self.sim.load(word).map_err(|_| Fault::Other { signal: 0, code: 0 })?;
        Ok(value.to_le_bytes())
    }
}

impl Process for SimProcess<'_> {
    fn call(&mut self, call: &Call<u64>, slots: &Slots) -> Result<u64, Errno> {
        match *call {
            Call::Map(ref map) => self.map(map),
            Call::Unmap { at, length } => {
                match self.space.munmap(self.pin, address(at).map_err(|_| Errno::EINVAL)?, length) {
                    Ok(unmapping) => unmapping.wait(self.pin),
                    Err(MunmapError::OutOfFrames(_)) => return Err(Errno::ENOMEM),
                    Err(_) => return Err(Errno::EINVAL),
                }
                Ok(0)
            }
            Call::Protect { at, length, protection } => self.protect(at, length, protection),
            Call::Advise { at, length, advice } => self.advise(at, length, advice),
            Call::Remap { at, old, new, flags, to, .. } => self.remap(at, old, new, flags, to),
            Call::Break(to) => {
                let to = address(slots.break_address(to)).or_else(|_| address(0))?;
                Ok(self.space.brk(self.pin, to).as_u64() - slots.layout.heap)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn touch(&mut self, address: u64, access: Access) -> Result<u8, Fault> {
        let (word, byte) = (address & !7, (address & 7) as usize);
        match access {
            Access::Read => Ok(self.load(word)?[byte]),
            Access::Execute => self.fault_in(word, access).map(|_| 0),
            Access::Write(value) => {
                let at = self.fault_in(word, access)?;
                let mut bytes = self.load(word)?;
                bytes[byte] = value;
                self.sim
                    .store(at, u64::from_le_bytes(bytes))
                    .map_err(|_| Fault::Other { signal: 0, code: 0 })?;
                Ok(0)
            }
        }
    }

    fn look(&mut self, page: u64) -> Result<View, Fault> {
        let mut samples = [0; OFFSETS.len()];
        let mut rest = Rest::Zero;
        // A word of each cache line, and those with samples: a page has many words, and each is an access of
        // a simulated CPU.
        let words = (0..PAGE)
            .step_by(8)
            .filter(|word| word.is_multiple_of(64) || OFFSETS.iter().any(|offset| offset & !7 == *word));
        for offset in words {
            for (index, byte) in self.load(page + offset)?.into_iter().enumerate() {
                match OFFSETS.iter().position(|&sample| sample == offset + index as u64) {
                    Some(sample) => samples[sample] = byte,
                    None if byte != 0 => rest = Rest::Dirty,
                    None => {}
                }
            }
        }
        Ok(View { samples, rest })
    }

    fn list(&mut self, within: Range<u64>, report: &mut dyn FnMut(Listed)) {
        let mut from = within.start;
        while let Ok(at) = address(from)
            && let Some(range) = self.space.next_region(self.pin, at)
        {
            let (start, end) = (range.start().as_u64(), range.end().as_u64().min(within.end));
            if start >= end {
                break;
            }
            let access = range.region().access();
            let bit = |set: bool, bit: Protection| if set { bit.0 } else { 0 };
            let protection = bit(access.reads(), Protection::READ)
                | bit(access.writes(), Protection::WRITE)
                | bit(access.executes(), Protection::EXECUTE);
            let protection = Protection(protection);
            report(Listed { start, end, protection, shared: false, shows: Shows::Nothing });
            from = end;
        }
    }
}
