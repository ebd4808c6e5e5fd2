//! The states of a model's CPUs.

use std::cell::RefCell;
use std::ptr;

use topomem_percpu::CpuId;
use topomem_shootdown::{CpuState, Shootdown, Tlb};

std::thread_local! {
    /// The states of the run's CPUs, which end with the next run: the queue of a run does not outlive it.
    static STATES: RefCell<Vec<Box<CpuState>>> = const { RefCell::new(Vec::new()) };
}

/// Gives CPUs `0..cpus` their states.
pub(crate) fn place<T: Tlb>(queue: &Shootdown<T>, cpus: usize) {
    STATES.with_borrow_mut(|states| {
        states.clear();
        states.extend((0..cpus).map(|_| Box::default()));
        for (cpu, state) in (0..).filter_map(CpuId::new).zip(states.iter()) {
            // SAFETY: the box stays until the next run, and the queue is gone by then.
            let state: &'static CpuState = unsafe { &*ptr::from_ref(&**state) };
            assert!(queue.place(cpu, state).is_ok());
        }
    });
}
