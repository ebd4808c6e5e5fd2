//! Wake-ups: noted when due, called when foreign code may run.
//!
//! Allocations, frees and drops happen with locks held unknown to the service, and in interrupt
//! handlers. A waker is the kernel's own code: it may take such a lock, allocate, or free the last
//! of a task. Allocations, frees and drops therefore never call, clone or drop a waker. They set a
//! flag, and [`MemoryService::wake_due`] calls the wakers.
//!
//! Nothing here waits: a context leaves a note for the context it has interrupted.

use core::task::Waker;

use atomic_waker::AtomicWaker;
use topomem_percpu::sync::atomic::{AtomicBool, Ordering, fence};
use topomem_percpu::{AtomicCpuSet, CpuId, CpuPage, CpuPin, CpuSet, PagedCpuTable};
use topomem_shootdown::WakersDue;

use super::MemoryService;
use crate::Machine;

/// One CPU's service task, on a cache line of its own.
#[repr(align(128))]
pub(super) struct TaskSlot {
    /// The task has work that it has not been woken for.
    due: AtomicBool,
    /// The task's waker while the task sleeps. If a take meets a registration under way, possibly
    /// interrupted by the take, the registering context wakes the task; neither waits.
    waker: AtomicWaker,
}

impl TaskSlot {
    #[cfg(not(loom))]
    pub(super) const fn new() -> TaskSlot {
        TaskSlot { due: AtomicBool::new(false), waker: AtomicWaker::new() }
    }

    /// The same (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub fn new() -> TaskSlot {
        TaskSlot { due: AtomicBool::new(false), waker: AtomicWaker::new() }
    }
}

/// The slot of the CPUs that have none: nothing uses its fields.
#[cfg(not(loom))]
static NO_TASK: TaskSlot = TaskSlot::new();

/// The service tasks' wakers, and which are due.
pub(super) struct TaskWakers {
    /// A CPU without a slot runs no task yet.
    slots: PagedCpuTable<TaskSlot>,
    /// A task has work, whichever CPU's.
    any_due: AtomicBool,
    /// The CPUs with an abandoned space active: work is due when they leave it.
    leavers: AtomicCpuSet,
}

impl TaskWakers {
    #[cfg(not(loom))]
    pub(super) const fn new() -> TaskWakers {
        TaskWakers {
            slots: PagedCpuTable::new(&NO_TASK),
            any_due: AtomicBool::new(false),
            leavers: AtomicCpuSet::new(),
        }
    }

    /// Gives `cpu` its slot.
    ///
    /// # Errors
    ///
    /// The slot comes back if the CPU has one already.
    pub(super) fn place(&self, cpu: CpuId, slot: &'static TaskSlot) -> Result<(), &'static TaskSlot> {
        self.slots.place(cpu, slot)
    }

    /// Gives room for the slots of `cpu` and the CPUs that share a page with it, unless there is.
    pub(super) fn extend(
        &self,
        cpu: CpuId,
        page: &'static CpuPage<TaskSlot>,
    ) -> Result<(), &'static CpuPage<TaskSlot>> {
        self.slots.extend(cpu, page)
    }

    /// Returns whether there is room for the slot of `cpu`.
    pub(super) fn has_room(&self, cpu: CpuId) -> bool {
        self.slots.has_room(cpu)
    }

    fn slot(&self, cpu: CpuId) -> Option<&'static TaskSlot> {
        self.slots.is_placed(cpu).then(|| self.slots.get(cpu))
    }

    /// Notes that `cpu`'s task has work; any CPU's, if that one has no task.
    pub(super) fn note(&self, cpu: CpuId) {
        // Release pairs with the Acquire in `take`: whoever takes the note sees the work.
        self.slot(cpu).map_or(&self.any_due, |slot| &slot.due).store(true, Ordering::Release);
    }

    /// Notes work for any CPU's task.
    pub(super) fn note_any(&self) {
        // Release, as in `note`.
        self.any_due.store(true, Ordering::Release);
    }

    /// Arranges a note for its task when a CPU of `cpus` leaves its space. The caller checks
    /// afterwards whether the CPU has left already.
    pub(super) fn await_leaving(&self, cpus: &CpuSet) {
        if cpus.is_empty() {
            return;
        }
        for cpu in cpus.iter() {
            self.leavers.insert(cpu, Ordering::Relaxed);
        }
        // Pairs with the fence in `note_left`: either the CPU sees itself awaited, or the caller
        // sees the CPU gone.
        fence(Ordering::SeqCst);
    }

    /// Notes the pinned CPU's departure from a space.
    pub(super) fn note_left(&self, pin: &CpuPin) {
        fence(Ordering::SeqCst);
        if self.leavers.contains(pin.cpu(), Ordering::Relaxed) {
            self.leavers.remove(pin.cpu(), Ordering::Relaxed);
            self.note(pin.cpu());
        }
    }

    /// Returns whether `cpu`'s task has work without having been woken.
    pub(super) fn is_due(&self, cpu: CpuId) -> bool {
        // Relaxed: a hint. Who acts on it looks again.
        self.slot(cpu).is_some_and(|slot| slot.due.load(Ordering::Relaxed))
            || self.any_due.load(Ordering::Relaxed)
    }

    /// Takes the notes for `cpu`'s task, and returns whether any existed.
    pub(super) fn take(&self, cpu: CpuId) -> bool {
        if !self.is_due(cpu) {
            return false;
        }
        // Acquire pairs with the Release in `note`. Both are taken: no short circuit.
        self.slot(cpu).is_some_and(|slot| slot.due.swap(false, Ordering::Acquire))
            | self.any_due.swap(false, Ordering::Acquire)
    }

    /// Registers `waker`, to be called for later work of `cpu`'s task.
    pub(super) fn register(&self, cpu: CpuId, waker: &Waker) {
        match self.slot(cpu) {
            Some(slot) => slot.waker.register(waker),
            // Nothing would wake a task of a CPU that never came online: it looks again at once.
            None => waker.wake_by_ref(),
        }
    }

    /// Wakes `cpu`'s task if it sleeps, and returns the number of wakers called.
    pub(super) fn wake(&self, cpu: CpuId) -> usize {
        match self.slot(cpu).and_then(|slot| slot.waker.take()) {
            Some(waker) => {
                waker.wake();
                1
            }
            None => 0,
        }
    }
}

impl<P: Machine> MemoryService<P> {
    /// Notes work for the pinned CPU's task: the next [`MemoryService::wake_due`] wakes the task.
    pub(crate) fn note_work(&self, pin: &CpuPin) {
        self.task_wakers.note(pin.cpu());
    }

    /// Notes work for some CPU's task, from contexts without a pinned CPU.
    pub(crate) fn note_work_anywhere(&self) {
        self.task_wakers.note_any();
    }

    /// Notes the pinned CPU's departure from a space, which may be abandoned and can then go.
    pub(crate) fn note_left(&self, pin: &CpuPin) {
        self.task_wakers.note_left(pin);
    }

    /// Returns whether [`MemoryService::wake_due`] has something to do. Cost: a full barrier and a
    /// few loads.
    #[must_use]
    pub fn wake_is_due(&self, pin: &CpuPin) -> bool {
        self.frames.wakers_due()
            || self.frames.pressure_due()
            || self.task_wakers.is_due(pin.cpu())
            || self.shootdown.wakers_due() == WakersDue::Perhaps
    }

    /// Calls due wakers, and returns the number of wakers called: wakers of futures waiting for
    /// shootdowns or for frames, and of the pinned CPU's service task if it has work.
    ///
    /// Apart from [`MemoryService::run_pending_work`] and the polls of the service's futures, nothing else
    /// calls a waker. A kernel calls the function with no lock held that a waker could need, and
    /// soon after wakers may have become due: at the end of interrupt handlers in which the
    /// kernel's wakers may run, in the executor between tasks and after each switch of address
    /// spaces, and in the idle loop after the CPU has become lazy and before it halts.
    ///
    /// Never waits, and may be called in a context that interrupted another such call.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// // In the executor, between tasks:
    /// if service.wake_is_due(pin) {
    ///     service.wake_due(pin);
    /// }
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn wake_due(&self, pin: &CpuPin) -> usize {
        let cpu = pin.cpu();
        let completed = self.shootdown.wake_completed(pin);
        let waiters = self.frames.wake_waiters(pin);
        if self.frames.take_pressure_due() {
            // Any task reclaims as well as another.
            self.task_wakers.note_any();
        }
        // A CPU that is offline runs no task: the others see the note.
        let runs_tasks = || self.shootdown.kernel().cpus().contains(cpu);
        let due = self.task_wakers.is_due(cpu) && runs_tasks() && self.task_wakers.take(cpu);
        let tasks = if due { self.task_wakers.wake(cpu) } else { 0 };
        completed + waiters + tasks
    }
}
