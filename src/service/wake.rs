//! Wake-ups: noted where they come due, called where foreign code may run.
//!
//! Allocating, freeing and dropping happen with locks held that the service knows nothing of, and in
//! interrupt handlers. A waker is the kernel's own code: it may take such a lock, allocate, or free
//! the last of a task. So nothing that allocates, frees or drops calls, clones or drops a waker. It
//! sets a flag, and [`MemoryService::wake_due`] calls the wakers.
//!
//! Nothing here waits: a context that interrupted another one of these leaves it a note.

use core::task::Waker;

use atomic_waker::AtomicWaker;
use topomem_percpu::sync::atomic::{AtomicBool, Ordering, fence};
use topomem_percpu::{AtomicCpuSet, CpuId, CpuPin, CpuSet, CpuTable};
use topomem_shootdown::WakersDue;

use super::MemoryService;
use crate::Machine;

/// One CPU's service task, on a cache line of its own.
#[repr(align(128))]
pub(super) struct TaskSlot {
    /// The task has work that it has not been woken for.
    due: AtomicBool,
    /// The task's waker while the task sleeps. A take that meets a registration under way, which it
    /// may have interrupted, has the registering context wake the task; neither waits.
    waker: AtomicWaker,
}

impl TaskSlot {
    #[cfg(not(loom))]
    pub const fn new() -> TaskSlot {
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
    slots: CpuTable<TaskSlot>,
    /// A task has work, whichever CPU's.
    any_due: AtomicBool,
    /// The CPUs that have an abandoned space active: there is work once they leave it.
    leavers: AtomicCpuSet,
}

impl TaskWakers {
    #[cfg(not(loom))]
    pub const fn new() -> TaskWakers {
        TaskWakers {
            slots: CpuTable::new(&NO_TASK),
            any_due: AtomicBool::new(false),
            leavers: AtomicCpuSet::new(),
        }
    }

    /// Gives `cpu` its slot.
    ///
    /// # Errors
    ///
    /// The slot comes back if the CPU has one already.
    pub fn place(&self, cpu: CpuId, slot: &'static TaskSlot) -> Result<(), &'static TaskSlot> {
        self.slots.place(cpu, slot)
    }

    fn slot(&self, cpu: CpuId) -> Option<&'static TaskSlot> {
        self.slots.is_placed(cpu).then(|| self.slots.get(cpu))
    }

    /// Notes that `cpu`'s task has work; any CPU's, if that one has no task.
    pub fn note(&self, cpu: CpuId) {
        // Release pairs with the Acquire in `take`: whoever takes the note sees the work.
        self.slot(cpu).map_or(&self.any_due, |slot| &slot.due).store(true, Ordering::Release);
    }

    /// Notes that there is work for any CPU's task.
    pub fn note_any(&self) {
        // As in `note`.
        self.any_due.store(true, Ordering::Release);
    }

    /// Notes work for its task when one of `cpus` leaves its space. The caller looks afterwards
    /// whether it has left already.
    pub fn await_leaving(&self, cpus: &CpuSet) {
        if cpus.is_empty() {
            return;
        }
        for cpu in cpus.iter() {
            self.leavers.insert(cpu, Ordering::Relaxed);
        }
        // Pairs with the fence in `note_left`: either the CPU sees that it is awaited, or the caller
        // sees that it has left.
        fence(Ordering::SeqCst);
    }

    /// The pinned CPU has left a space.
    pub fn note_left(&self, pin: &CpuPin) {
        fence(Ordering::SeqCst);
        if self.leavers.contains(pin.cpu(), Ordering::Relaxed) {
            self.leavers.remove(pin.cpu(), Ordering::Relaxed);
            self.note(pin.cpu());
        }
    }

    /// Is there work that `cpu`'s task has not been woken for?
    pub fn is_due(&self, cpu: CpuId) -> bool {
        // Relaxed: a hint. Who acts on it looks again.
        self.slot(cpu).is_some_and(|slot| slot.due.load(Ordering::Relaxed))
            || self.any_due.load(Ordering::Relaxed)
    }

    /// Takes the notes that concern `cpu`'s task; false where there was none.
    pub fn take(&self, cpu: CpuId) -> bool {
        if !self.is_due(cpu) {
            return false;
        }
        // Acquire pairs with the Release in `note`. Both are taken: no short circuit.
        self.slot(cpu).is_some_and(|slot| slot.due.swap(false, Ordering::Acquire))
            | self.any_due.swap(false, Ordering::Acquire)
    }

    /// Has `waker` called when `cpu`'s task has work from now on.
    pub fn register(&self, cpu: CpuId, waker: &Waker) {
        match self.slot(cpu) {
            Some(slot) => slot.waker.register(waker),
            // Nothing would wake a task of a CPU that never came online: it looks again at once.
            None => waker.wake_by_ref(),
        }
    }

    /// Wakes `cpu`'s task, if it sleeps; how many that were.
    pub fn wake(&self, cpu: CpuId) -> usize {
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
    /// Notes that the pinned CPU's task has work: the next [`MemoryService::wake_due`] wakes it.
    pub(crate) fn note_work(&self, pin: &CpuPin) {
        self.task_wakers.note(pin.cpu());
    }

    /// The same for whichever CPU's task: from contexts that have no CPU pinned.
    pub(crate) fn note_work_anywhere(&self) {
        self.task_wakers.note_any();
    }

    /// The pinned CPU has left a space, which may be abandoned: then it can go.
    pub(crate) fn note_left(&self, pin: &CpuPin) {
        self.task_wakers.note_left(pin);
    }

    /// Does [`MemoryService::wake_due`] have something to do? Costs a full barrier and a few loads.
    #[must_use]
    pub fn wake_is_due(&self, pin: &CpuPin) -> bool {
        self.frames.wakers_due()
            || self.frames.pressure_due()
            || self.task_wakers.is_due(pin.cpu())
            || self.shootdown.wakers_due() == WakersDue::Perhaps
    }

    /// Calls the wakers that are due, and returns how many it called: those of futures that wait for
    /// shootdowns or for frames, and the pinned CPU's service task where it has work.
    ///
    /// Nothing else of the service calls a waker, but for [`MemoryService::tend`] and the polls of
    /// its futures. So a kernel calls this where no lock is held that a waker could need, and soon
    /// after something could have come due: at the end of interrupt handlers that the kernel's wakers
    /// may run in, in the executor between tasks and after each switch of address spaces, and in the
    /// idle loop after the CPU has become lazy and before it halts.
    ///
    /// Never waits, and may be called in a context that interrupted another call of it.
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
