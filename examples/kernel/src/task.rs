//! Tasks, each with a stack. A timer interrupt preempts them; any CPU goes on with any task.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::arch::cpu;
use crate::arch::interrupts::YIELD;

/// How many tasks there are.
pub(crate) const TASKS: usize = 8;
/// How many preemptions a run must have had.
pub(crate) const ENOUGH: u32 = 100;
const STACK: usize = 32 * 1024;

/// A task's number, below [`TASKS`].
pub(crate) type TaskIndex = usize;

/// A context's registers, as the stubs in [`crate::arch::interrupts`] leave them on the stack.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Registers {
    general: [u64; 15],
    pub(crate) error: u64,
    pub(crate) rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

/// Of `general`: RDI, the first argument.
const RDI: usize = 8;

impl Registers {
    pub(crate) const NONE: Registers =
        Registers { general: [0; 15], error: 0, rip: 0, cs: 0, flags: 0, rsp: 0, ss: 0 };
}

/// Zero, so that tasks need no room in the kernel's file.
const DONE: u8 = 0;
const READY: u8 = 1;
const RUNNING: u8 = 2;

struct Task {
    state: AtomicU8,
    registers: UnsafeCell<Registers>,
    stack: UnsafeCell<[u128; STACK / 16]>,
    /// How often it was preempted.
    preemptions: AtomicU32,
    /// A bit for each CPU that it ran on.
    cpus: AtomicU32,
}

// SAFETY: the registers belong to the CPU that has made the task `RUNNING`, the stack to the task.
unsafe impl Sync for Task {}

static ALL: [Task; TASKS] = [const {
    Task {
        state: AtomicU8::new(DONE),
        registers: UnsafeCell::new(Registers::NONE),
        stack: UnsafeCell::new([0; STACK / 16]),
        preemptions: AtomicU32::new(0),
        cpus: AtomicU32::new(0),
    }
}; TASKS];

/// Makes all tasks ready, each to run [`crate::work::task`] with its number.
///
/// # Safety
///
/// Called once, before any CPU switches.
pub(crate) unsafe fn start_all() {
    for (index, task) in ALL.iter().enumerate() {
        let mut registers = Registers {
            rip: run as *const () as usize as u64,
            cs: 8,
            flags: 0x202, // interrupts on
            // As after a call.
            rsp: task.stack.get().wrapping_add(1).expose_provenance() as u64 - 8,
            ..Registers::NONE
        };
        registers.general[RDI] = index as u64;
        // SAFETY: no CPU runs tasks yet.
        unsafe { *task.registers.get() = registers };
        task.state.store(READY, Ordering::Release);
    }
}

extern "sysv64" fn run(index: TaskIndex) -> ! {
    crate::work::task(index);
    ALL[index].state.store(DONE, Ordering::Release);
    loop {
        yield_now();
    }
}

/// Lets another task run.
pub(crate) fn yield_now() {
    // SAFETY: the handler comes back with all registers as they are.
    unsafe { asm!("int {0}", const YIELD) };
}

/// Has every task ended?
pub(crate) fn all_are_done() -> bool {
    ALL.iter().all(|task| task.state.load(Ordering::Acquire) == DONE)
}

/// Says whether a task goes on after `round` rounds of at least `least`: until tasks were preempted often enough.
#[allow(dead_code, reason = "not every tier needs it")]
pub(crate) fn goes_on(round: usize, least: usize) -> bool {
    round < least || preemptions().0 < 2 * ENOUGH
}

/// How often tasks were preempted, and the most CPUs that one of them ran on.
pub(crate) fn preemptions() -> (u32, u32) {
    let preemptions = ALL.iter().map(|task| task.preemptions.load(Ordering::Relaxed)).sum();
    let cpus = ALL.iter().map(|task| task.cpus.load(Ordering::Relaxed).count_ones()).max();
    (preemptions, cpus.unwrap_or(0))
}

/// Replaces the interrupted context's registers by those of the next task, unless preemption is off there. For
/// interrupt handlers with a stack of their own.
pub(crate) fn switch(registers: &mut Registers) {
    let cpu = cpu::this();
    if !cpu.is_preemptible() {
        return;
    }
    let current = cpu.current.get();
    let next = pick(current.map_or(0, |task| task + 1));
    let place = match current {
        None => cpu.idle.get(),
        Some(task) => ALL[task].registers.get(),
    };
    let is_done = current.is_some_and(|task| ALL[task].state.load(Ordering::Relaxed) == DONE);
    if next.is_none() && !is_done {
        return;
    }
    // SAFETY: the place is this CPU's, or that of the task that it runs.
    unsafe { *place = *registers };
    if let Some(task) = current.filter(|_| !is_done) {
        ALL[task].preemptions.fetch_add(1, Ordering::Relaxed);
        // Release: who makes it `RUNNING` sees its registers and its stack.
        ALL[task].state.store(READY, Ordering::Release);
    }
    cpu.current.set(next);
    let place = match next {
        None => cpu.idle.get(),
        Some(task) => {
            ALL[task].cpus.fetch_or(1 << cpu::index(), Ordering::Relaxed);
            ALL[task].registers.get()
        }
    };
    // SAFETY: `pick` made the task this CPU's.
    *registers = unsafe { *place };
}

/// Takes the first ready task from `first` on.
fn pick(first: TaskIndex) -> Option<TaskIndex> {
    let claim = |&task: &TaskIndex| {
        // Acquire pairs with `switch`'s Release.
        let claimed = ALL[task].state.compare_exchange(READY, RUNNING, Ordering::Acquire, Ordering::Relaxed);
        claimed.is_ok()
    };
    (first..first + TASKS).map(|task| task % TASKS).find(claim)
}
