//! The futures waiting for memory, in a fixed number of slots.
//!
//! **Nothing here waits, and nothing foreign runs inside an allocation, a free or a drop.** A free
//! only records a due wake-up ([`Waiters::note`]); [`Waiters::wake`] calls the wakers, at
//! times chosen by the kernel. A slot is held, for a few instructions, by a context moving a
//! waker in or out. Another context in need of the slot then leaves a mark in the slot's state, and
//! continues. Therefore a future may be dropped in a handler that interrupted any operation here. A slot
//! has no pointer to the future.
//!
//! **Order.** Each waiting future has a ticket; the lowest is the first. A note is for the first
//! waiter. After a try, a waiter passes the note on to the next waiter. A note therefore goes through all
//! waiters in order.
//!
//! **No wake-up is lost.** A future raises the count, registers the waker, issues a full barrier, and
//! searches for memory. A free is SeqCst and then checks the count: the future sees the frames, or the free
//! sees the future.

use core::task::Waker;

use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use topomem_percpu::sync::cell::UnsafeCell;

/// The maximum number of futures waiting in order; a further future is polled again at once
/// until a slot is free.
pub(crate) const WAITERS: usize = if cfg!(loom) { 2 } else { 64 };

/// In [`Waiters::due`]: the first waiter is to be woken.
const FIRST: u64 = 1;
/// Above [`FIRST`]: the lowest ticket with a note passed on; 0 for none.
const PASSED_SHIFT: u32 = 1;

/// The slot has no future.
const FREE: u64 = 0;
/// The future of the slot, or the future taking the slot, has the cell.
const OWNER: u64 = 1;
/// A waker is in the cell, and has not been woken.
const WAITING: u64 = 2;
/// A context takes the waker out, to call the waker.
const WAKING: u64 = 3;
/// The waker was woken, and the future has not been polled since.
const NOTIFIED: u64 = 4;
/// The future was dropped. A waker may be in the cell.
const LEFT: u64 = 5;
/// The future was dropped while a context was taking the waker out.
const LEFT_WAKING: u64 = 6;
const PHASE: u64 = 7;
const TICKET_SHIFT: u32 = 3;

/// A future's slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaiterId {
    slot: usize,
    ticket: u64,
}

impl WaiterId {
    fn state(self, phase: u64) -> u64 {
        self.ticket << TICKET_SHIFT | phase
    }
}

/// The turn of a future after registering a waker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The future may try.
    Own,
    /// Other futures come first.
    Others,
    /// The future is being woken just now: to be polled again.
    Again,
}

/// A poll holds the slot of the due waker: the note stays.
struct Busy;

#[derive(Debug)]
struct Slot {
    /// Ticket and phase. `FREE -> OWNER -> WAITING` by the future; `WAITING -> WAKING -> NOTIFIED`
    /// by the waking context; `NOTIFIED` or `WAITING -> OWNER` or `LEFT` by the future again; `LEFT
    /// -> OWNER -> FREE` by the context clearing up.
    state: AtomicU64,
    /// Accessed by the context that moved the state to `OWNER` or `WAKING`, until the next move.
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: `waker` is accessed only by the context that moved `state` to OWNER or WAKING with
// Acquire and will move the state on with Release. Wakers are `Send`.
unsafe impl Sync for Slot {}

impl Slot {
    #[cfg(not(loom))]
    const fn new() -> Slot {
        Slot { state: AtomicU64::new(FREE), waker: UnsafeCell::new(None) }
    }

    /// Creates a free slot (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    fn new() -> Slot {
        Slot { state: AtomicU64::new(FREE), waker: UnsafeCell::new(None) }
    }

    fn swap_waker(&self, waker: Option<Waker>) -> Option<Waker> {
        self.waker.with_mut(|cell| {
            // SAFETY: the caller has the cell (`Slot::state`), and no further reference exists.
            core::mem::replace(unsafe { &mut *cell }, waker)
        })
    }

    /// Changes the state according to the protocol above. Acquire pairs with the Release of the
    /// last change: the cell is seen as the last holder left the cell. Release pairs with the Acquire of
    /// the next change: the next context sees the earlier writes of the caller.
    fn go(&self, from: u64, to: u64) -> Result<u64, u64> {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// The futures waiting for memory, and the pending wake-ups.
#[derive(Debug)]
pub(crate) struct Waiters {
    /// The number of futures with a slot.
    count: AtomicU32,
    /// The last ticket given out.
    tickets: AtomicU64,
    /// The waiters to be woken: [`FIRST`], and the first waiter with at least the ticket above [`FIRST`].
    due: AtomicU64,
    slots: [Slot; WAITERS],
}

impl Waiters {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Waiters {
        Waiters {
            count: AtomicU32::new(0),
            tickets: AtomicU64::new(0),
            due: AtomicU64::new(0),
            slots: [const { Slot::new() }; WAITERS],
        }
    }

    /// Creates an empty set (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(crate) fn new() -> Waiters {
        Waiters {
            count: AtomicU32::new(0),
            tickets: AtomicU64::new(0),
            due: AtomicU64::new(0),
            slots: core::array::from_fn(|_| Slot::new()),
        }
    }

    /// Returns true if a future waits. SeqCst pairs with the fence in the future's poll: after a
    /// free, either this sees the waiter, or the waiter sees the frames.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0
    }

    /// Records a free of memory: the first waiter is to be woken.
    #[inline]
    pub(crate) fn note(&self) {
        if self.any() {
            self.note_first();
        }
    }

    #[cold]
    fn note_first(&self) {
        // Release pairs with the Acquire in `wake`: the woken waiter sees the memory.
        self.due.fetch_or(FIRST, Ordering::AcqRel);
    }

    /// Returns true if a wake-up is due. Cost: one load.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        // Acquire pairs with the Release of the notes.
        self.due.load(Ordering::Acquire) != 0
    }

    /// Records a due wake-up of the first waiter with at least this ticket.
    ///
    /// Bound: lock-free; retried only if another note came between.
    #[cold]
    #[allow(deprecated, reason = "`try_update` is newer than `rust-version`")]
    fn note_from(&self, ticket: u64) {
        let earlier = |due: u64| {
            let passed = due >> PASSED_SHIFT;
            (passed == 0 || ticket < passed).then_some(ticket << PASSED_SHIFT | due & FIRST)
        };
        // An earlier note reaches this waiter, too. Release as in `note_first`.
        _ = self.due.fetch_update(Ordering::AcqRel, Ordering::Acquire, earlier);
    }

    /// Makes the waiters behind `place` try, too: more memory may be free, or the free memory may
    /// suit them.
    pub(crate) fn pass_on(&self, place: WaiterId) {
        // The future with the place is counted.
        if self.count.load(Ordering::Relaxed) > 1 {
            self.note_from(place.ticket + 1);
        }
    }

    /// Gives a future a slot with `waker`. Returns the waker if no slot is free.
    ///
    /// Drops the wakers of dropped futures. Bound: two checks of each slot.
    pub(crate) fn join(&self, waker: Waker) -> Result<WaiterId, Waker> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.clear_up();
        // Relaxed: tickets need only be unique.
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed) + 1;
        for (slot, at) in self.slots.iter().enumerate().map(|(slot, at)| (WaiterId { slot, ticket }, at)) {
            if at.go(FREE, slot.state(OWNER)).is_ok() {
                let before = at.swap_waker(Some(waker));
                debug_assert!(before.is_none(), "a free slot has a waker");
                at.state.store(slot.state(WAITING), Ordering::Release);
                return Ok(slot);
            }
        }
        self.count.fetch_sub(1, Ordering::SeqCst);
        Err(waker)
    }

    /// Puts another waker into a future's slot. Returns the future's turn.
    pub(crate) fn renew(&self, place: WaiterId, waker: Waker) -> Turn {
        let slot = &self.slots[place.slot];
        let own = place.state(OWNER);
        let notified = if slot.go(place.state(NOTIFIED), own).is_ok() {
            true
        } else if slot.go(place.state(WAITING), own).is_ok() {
            false
        } else {
            return Turn::Again;
        };
        let before = slot.swap_waker(Some(waker));
        slot.state.store(place.state(WAITING), Ordering::Release);
        drop(before);
        if notified { Turn::Own } else { self.turn(place) }
    }

    /// Returns the turn of a future that was not woken.
    pub(crate) fn turn(&self, place: WaiterId) -> Turn {
        if self.first(1).is_none_or(|first| first.ticket == place.ticket) {
            return Turn::Own;
        }
        // The future's turn comes after all earlier futures have tried.
        self.note_first();
        Turn::Others
    }

    /// Removes a served future, and drops the waker.
    pub(crate) fn finish(&self, place: WaiterId) {
        let slot = &self.slots[place.slot];
        let held = |phase| slot.go(place.state(phase), OWNER).is_ok();
        if held(WAITING) || held(NOTIFIED) {
            let waker = slot.swap_waker(None);
            slot.state.store(FREE, Ordering::Release);
            self.count.fetch_sub(1, Ordering::SeqCst);
            drop(waker);
        } else {
            self.leave(place);
        }
    }

    /// Removes a future, in any context: it does not wait, and leaves its waker to the next wake or
    /// join.
    pub(crate) fn leave(&self, place: WaiterId) {
        let slot = &self.slots[place.slot];
        let mut seen = slot.state.load(Ordering::Relaxed);
        loop {
            let left = if seen & PHASE == WAKING { LEFT_WAKING } else { LEFT };
            match slot.go(seen, place.state(left)) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        // A wake-up for this future goes to the next future, and the slot is to be cleared up.
        self.note_from(place.ticket + 1);
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes the due waiters. Returns the number of woken waiters. Calls and drops wakers; the caller
    /// holds no lock.
    ///
    /// Bound: a check of each slot for each woken waiter; further waiters due meanwhile
    /// are left due.
    pub(crate) fn wake(&self) -> usize {
        let mut woken = 0;
        for _ in 0..WAITERS {
            // Acquire pairs with the Release of the notes.
            let due = self.due.swap(0, Ordering::AcqRel);
            if due == 0 {
                break;
            }
            self.clear_up();
            let passed = due >> PASSED_SHIFT;
            let tickets = [(due & FIRST != 0).then_some(1), (passed != 0).then_some(passed)];
            let mut busy = false;
            for ticket in tickets.into_iter().flatten() {
                match self.wake_from(ticket) {
                    Ok(here) => woken += here,
                    Err(Busy) => busy = true,
                }
            }
            if busy {
                break;
            }
        }
        woken
    }

    /// Wakes the first waiter with at least this ticket. Returns the number woken.
    fn wake_from(&self, ticket: u64) -> Result<usize, Busy> {
        while let Some(place) = self.first(ticket) {
            let slot = &self.slots[place.slot];
            match slot.go(place.state(WAITING), place.state(WAKING)) {
                Ok(_) => {
                    let waker = slot.swap_waker(None);
                    if slot.go(place.state(WAKING), place.state(NOTIFIED)).is_err() {
                        // The future was dropped meanwhile, and has passed the note on.
                        slot.state.store(FREE, Ordering::Release);
                        return Ok(0);
                    }
                    return Ok(waker.map_or(0, |waker| {
                        waker.wake();
                        1
                    }));
                }
                // The future will be polled.
                Err(now) if now == place.state(WAKING) || now == place.state(NOTIFIED) => return Ok(0),
                // A poll of the future, perhaps interrupted by this context, has the cell.
                Err(now) if now == place.state(OWNER) => {
                    self.note_from(place.ticket);
                    return Err(Busy);
                }
                // The slot has just moved on.
                Err(_) => {}
            }
        }
        Ok(0)
    }

    /// Returns the waiter with the lowest ticket of at least `from`.
    fn first(&self, from: u64) -> Option<WaiterId> {
        let waiting = self.slots.iter().enumerate().filter_map(|(slot, at)| {
            let state = at.state.load(Ordering::Acquire);
            let ticket = state >> TICKET_SHIFT;
            let waits = matches!(state & PHASE, OWNER | WAITING | WAKING | NOTIFIED);
            (waits && ticket >= from).then_some(WaiterId { slot, ticket })
        });
        waiting.min_by_key(|place| place.ticket)
    }

    /// Frees the slots of dropped futures, and drops the wakers there.
    fn clear_up(&self) {
        for slot in &self.slots {
            let state = slot.state.load(Ordering::Acquire);
            // Without a ticket: not a waiter's.
            if state & PHASE == LEFT && slot.go(state, OWNER).is_ok() {
                let waker = slot.swap_waker(None);
                slot.state.store(FREE, Ordering::Release);
                drop(waker);
            }
        }
    }
}
