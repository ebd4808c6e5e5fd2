//! What belongs to one simulated CPU, and the thread that plays it.

pub(super) mod executor;
pub(super) mod interrupt;
pub(super) mod run;

use core::cell::{Cell, RefCell};

use topomem_percpu::{CpuId, PhysAddr};

use super::mmu::tlb::Tlb;
use interrupt::Delivery;

/// The registers and caches of a CPU. The thread that plays the CPU owns them, so an access
/// takes no lock that another CPU could wait for.
#[derive(Debug)]
pub(super) struct State {
    pub(super) tlb: Tlb,
    pub(super) root: Option<PhysAddr>,
    /// How many times interrupts are masked; handlers run masked.
    pub(super) masked: u32,
    delivery: Delivery,
    /// Poll points until the pending interrupt arrives.
    countdown: Option<u32>,
    random: u64,
}

impl State {
    pub(super) fn new(cpu: CpuId, delivery: Delivery) -> State {
        let random = (delivery.seed ^ (cpu.index() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        State { tlb: Tlb::default(), root: None, masked: 0, delivery, countdown: None, random }
    }

    /// At a poll point with an interrupt pending: does it arrive now?
    pub(super) fn arrives(&mut self) -> bool {
        if self.masked > 0 {
            return false;
        }
        let left = match self.countdown {
            Some(left) => left,
            None if self.delivery.longest == 0 => 0,
            None => (self.draw() % (u64::from(self.delivery.longest) + 1)) as u32,
        };
        self.countdown = left.checked_sub(1);
        left == 0
    }

    /// Marsaglia's xorshift64 (2003).
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }
}

/// Which CPU of which machine a thread plays. Machines are never freed, so an address names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) machine: usize,
    pub(super) cpu: CpuId,
}

std::thread_local! {
    static ROLE: Cell<Option<Role>> = const { Cell::new(None) };
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// The role of the calling thread.
pub(super) fn role() -> Option<Role> {
    ROLE.get()
}

/// Uses the state of the CPU that the calling thread plays; `None` where it plays none.
pub(super) fn with_state<R>(use_it: impl FnOnce(&mut State) -> R) -> Option<R> {
    STATE.with_borrow_mut(|state| state.as_mut().map(use_it))
}

/// Makes the calling thread play `role` until the guard is dropped, which returns the state.
pub(super) fn enter(role: Role, state: State, leave: &dyn Fn(State)) -> Leave<'_> {
    let outer_role = ROLE.replace(Some(role));
    let outer_state = STATE.replace(Some(state));
    Leave { outer_role, outer_state, leave }
}

/// Ends a role, also when the thread unwinds.
pub(super) struct Leave<'a> {
    outer_role: Option<Role>,
    outer_state: Option<State>,
    leave: &'a dyn Fn(State),
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        ROLE.set(self.outer_role);
        if let Some(state) = STATE.replace(self.outer_state.take()) {
            (self.leave)(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undelayed_interrupts_arrive_unless_masked() {
        let mut state = State::new(CpuId::BOOT, Delivery::default());
        assert!(state.arrives());
        state.masked = 1;
        assert!(!state.arrives());
    }

    #[test]
    fn delayed_interrupts_arrive_within_the_limit() {
        let mut state = State::new(CpuId::BOOT, Delivery { longest: 10, seed: 1 });
        let mut late = 0;
        for _ in 0..100 {
            let polls = (0..=10).position(|_| state.arrives()).expect("arrives within the limit");
            late += usize::from(polls > 0);
        }
        assert!(late > 50);
    }
}
