//! Wakers waiting for a CPU, in a fixed number of slots.
//!
//! A future waits for a single CPU at a time: the first CPU missing from its ticket. Slots hold the
//! condition as plain numbers and never follow a pointer. A leaked future therefore costs no more
//! than its slot, until the condition comes true.
//!
//! No wake-up is lost. A future registers, executes a full barrier, and looks at the CPU again. The
//! CPU publishes, executes a full barrier ([`Waiters::any`]), and looks for wakers. One sees the
//! other.

use core::task::Waker;

use topomem_percpu::CpuId;
use topomem_percpu::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use topomem_percpu::sync::cell::UnsafeCell;

use crate::domain::Kind;
use crate::{Generation, Request, Ticks};

/// Greatest number of registered futures. A further future wakes itself until a slot is free.
pub const WAITERS: usize = if cfg!(loom) { 1 } else { 64 };

/// The condition awaited by a registered waker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited {
    pub(crate) cpu: CpuId,
    pub(crate) kind: Kind,
    /// The domain's address, for comparison.
    pub(crate) domain: usize,
    pub(crate) request: Request,
    pub(crate) issued: Ticks,
}

/// A registration's number: the slot, and the count of its uses. Later uses have different numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registration {
    slot: usize,
    state: u64,
}

/// The low bits of a slot's state; the bits above count the slot's uses.
const FREE: u64 = 0;
const HELD: u64 = 1;
const WAITING: u64 = 2;
const PHASE: u64 = 3;
const USE: u64 = 4;

struct WaiterSlot {
    /// `FREE -> HELD` and `HELD -> WAITING` are made by a registering future, `WAITING -> HELD` and
    /// `HELD -> FREE` by the taker of the waker. Only the holder of the slot touches `waker`.
    state: AtomicU64,
    waker: UnsafeCell<Option<Waker>>,
    /// The fields of [`Awaited`], written while the slot is held. Readers check `state` before and
    /// after.
    cpu: AtomicUsize,
    domain: AtomicUsize,
    generation: AtomicU64,
    tables: AtomicU64,
    issued: AtomicU64,
    /// The wait, in ticks, after which the CPU is next reported as unresponsive.
    report_after: AtomicU64,
}

// SAFETY: only the context that moved `state` to HELD with Acquire touches `waker`, before moving
// the state on with Release; everything else is atomic. Wakers are `Send`.
unsafe impl Sync for WaiterSlot {}

impl WaiterSlot {
    #[cfg(not(loom))]
    const fn new() -> WaiterSlot {
        WaiterSlot {
            state: AtomicU64::new(FREE),
            waker: UnsafeCell::new(None),
            cpu: AtomicUsize::new(0),
            domain: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            tables: AtomicU64::new(0),
            issued: AtomicU64::new(0),
            report_after: AtomicU64::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> WaiterSlot {
        WaiterSlot {
            state: AtomicU64::new(FREE),
            waker: UnsafeCell::new(None),
            cpu: AtomicUsize::new(0),
            domain: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            tables: AtomicU64::new(0),
            issued: AtomicU64::new(0),
            report_after: AtomicU64::new(0),
        }
    }

    fn swap_waker(&self, waker: Option<Waker>) -> Option<Waker> {
        self.waker.with_mut(|slot| {
            // SAFETY: the caller holds the slot (`WaiterSlot::state`), so no other reference exists.
            core::mem::replace(unsafe { &mut *slot }, waker)
        })
    }

    /// Returns the slot's use and the awaited condition, if the slot still waits.
    fn read(&self) -> Option<(u64, Awaited)> {
        // Acquire pairs with the Release of the store of WAITING.
        let state = self.state.load(Ordering::Acquire);
        if state & PHASE != WAITING {
            return None;
        }
        let domain = self.domain.load(Ordering::Relaxed);
        let cpu = CpuId::new(self.cpu.load(Ordering::Relaxed))?;
        let awaited = Awaited {
            cpu,
            kind: if domain == 0 { Kind::Kernel } else { Kind::Space },
            domain,
            request: Request {
                generation: Generation(self.generation.load(Ordering::Relaxed)),
                tables: Generation(self.tables.load(Ordering::Relaxed)),
            },
            issued: Ticks(self.issued.load(Ordering::Relaxed)),
        };
        // Pairs with the Release fence in `register`: a field of a later use shows as a changed
        // state.
        fence(Ordering::Acquire);
        (self.state.load(Ordering::Relaxed) == state).then_some((state, awaited))
    }

    /// Ends the use `state`. No foreign code runs while the slot is held: the taker of the waker
    /// calls or drops it afterwards.
    fn take(&self, state: u64) -> Option<Taken> {
        // Acquire pairs with the Release of the store of WAITING: the waker's words were written
        // before.
        self.state
            .compare_exchange(state, (state & !PHASE) | HELD, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        let waker = self.swap_waker(None);
        let report_after = Ticks(self.report_after.load(Ordering::Relaxed));
        // Release pairs with the Acquire of the next holder, which finds the cell empty.
        self.state.store((state & !PHASE) | FREE, Ordering::Release);
        waker.map(|waker| Taken { waker, report_after })
    }

    /// Returns the time of the CPU's next report in the use `state`, ended by another context;
    /// `None` if the slot has been used again since.
    fn report_after(&self, state: u64) -> Option<Ticks> {
        let report_after = Ticks(self.report_after.load(Ordering::Relaxed));
        // Pairs with the Release fence in `register`, as in `read`.
        fence(Ordering::Acquire);
        (self.state.load(Ordering::Relaxed) & !PHASE == state & !PHASE).then_some(report_after)
    }
}

/// The content of a slot.
struct Taken {
    waker: Waker,
    report_after: Ticks,
}

/// One CPU that halts, in [`Waiters::registered`]: above all slots.
const HALTER: usize = 1 << 16;
const _: () = assert!(WAITERS < HALTER);

/// The waiters of a moment: registered wakers, and CPUs that halt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Expected(usize);

impl Expected {
    /// Returns whether there are none.
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether wakers are registered.
    pub(crate) fn has_wakers(self) -> bool {
        !self.0.is_multiple_of(HALTER)
    }

    /// Returns whether CPUs halt.
    pub(crate) fn has_halters(self) -> bool {
        self.0 >= HALTER
    }
}

/// All registered wakers.
pub(crate) struct Waiters {
    /// Number of slots possibly in use, a hint to save the look at the slots; and the number of halted CPUs times
    /// [`HALTER`].
    registered: AtomicUsize,
    slots: [WaiterSlot; WAITERS],
}

impl Waiters {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Waiters {
        Waiters { registered: AtomicUsize::new(0), slots: [const { WaiterSlot::new() }; WAITERS] }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Waiters {
        Waiters { registered: AtomicUsize::new(0), slots: core::array::from_fn(|_| WaiterSlot::new()) }
    }

    /// Puts `waker` into a free slot. The CPU is to be reported after a wait of `report_after`. The
    /// caller then looks at the condition again, after a full barrier.
    ///
    /// # Errors
    ///
    /// Returns the waker if all slots are in use.
    pub(crate) fn register(
        &self,
        awaited: Awaited,
        report_after: Ticks,
        waker: Waker,
    ) -> Result<Registration, Waker> {
        for (index, slot) in self.slots.iter().enumerate() {
            let free = slot.state.load(Ordering::Relaxed);
            let held = (free & !PHASE).wrapping_add(USE) | HELD;
            // Acquire pairs with the Release of the store of FREE.
            if free & PHASE != FREE
                || slot.state.compare_exchange(free, held, Ordering::Acquire, Ordering::Relaxed).is_err()
            {
                continue;
            }
            // Relaxed: the caller's full barrier orders the addition before its second look.
            self.registered.fetch_add(1, Ordering::Relaxed);
            // Pairs with the Acquire fence in `read`.
            fence(Ordering::Release);
            slot.cpu.store(awaited.cpu.index(), Ordering::Relaxed);
            slot.domain.store(awaited.domain, Ordering::Relaxed);
            slot.generation.store(awaited.request.generation.0, Ordering::Relaxed);
            slot.tables.store(awaited.request.tables.0, Ordering::Relaxed);
            slot.issued.store(awaited.issued.0, Ordering::Relaxed);
            slot.report_after.store(report_after.0, Ordering::Relaxed);
            slot.swap_waker(Some(waker));
            let waiting = (held & !PHASE) | WAITING;
            slot.state.store(waiting, Ordering::Release);
            return Ok(Registration { slot: index, state: waiting });
        }
        Err(waker)
    }

    /// Takes the waker of `registration` out again and drops it, unless the waker has been called.
    /// Returns the wait after which the CPU is next to be reported, if still known.
    pub(crate) fn deregister(&self, registration: Registration) -> Option<Ticks> {
        match self.end(registration) {
            // The slot is free again by now: dropping the waker may run arbitrary code.
            Some(taken) => Some(taken.report_after),
            None => self.slots[registration.slot].report_after(registration.state),
        }
    }

    /// Takes out the waker of `registration`. Only a single caller gets the waker.
    pub(crate) fn take(&self, registration: Registration) -> Option<Waker> {
        self.end(registration).map(|taken| taken.waker)
    }

    fn end(&self, registration: Registration) -> Option<Taken> {
        let taken = self.slots[registration.slot].take(registration.state)?;
        self.registered.fetch_sub(1, Ordering::Relaxed);
        Some(taken)
    }

    /// Returns the waiters of this moment. The full barrier pairs with the barrier of
    /// `Completion::poll` and of `Ticket::halt_if_long`: a future whose registration, or a waiter whose halt, is
    /// not seen here sees everything published before by this CPU.
    #[inline]
    pub(crate) fn any(&self) -> Expected {
        fence(Ordering::SeqCst);
        Expected(self.registered.load(Ordering::Relaxed))
    }

    /// Counts a CPU that is about to halt. Relaxed: its full barrier follows.
    pub(crate) fn halter_came(&self) {
        self.registered.fetch_add(HALTER, Ordering::Relaxed);
    }

    /// Counts a halted CPU less.
    pub(crate) fn halter_went(&self) {
        self.registered.fetch_sub(HALTER, Ordering::Relaxed);
    }

    /// Returns the registrations of this moment, with their conditions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Registration, Awaited)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let (state, awaited) = slot.read()?;
            Some((Registration { slot: index, state }, awaited))
        })
    }

    /// Returns whether to report the CPU `registration` has waited for, for a time of `waited`.
    /// True once at each doubling of the timeout.
    pub(crate) fn report_due(&self, registration: Registration, waited: Ticks) -> bool {
        let after = &self.slots[registration.slot].report_after;
        let due = after.load(Ordering::Relaxed);
        // Relaxed: the word only decides on the reporter and the time. A slot reused meanwhile
        // reports early or late once.
        waited.0 >= due
            && after
                .compare_exchange(
                    due,
                    waited.0.saturating_mul(2).max(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }
}
