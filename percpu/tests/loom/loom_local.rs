//! loom: what one CPU prepares for another is complete when the other finds it.
#![cfg(loom)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::cell::Cell;

use loom::sync::Arc;
use loom::thread;
use topomem_percpu::sync::atomic::{AtomicBool, Ordering};
use topomem_percpu::sync::cell::UnsafeCell;
use topomem_percpu::{CpuId, CpuLocal, CpuPin, Slot, Unavailable};

/// A value that loom tracks, set up before its slot is installed.
struct Tracked(UnsafeCell<u32>);

fn pin(cpu: CpuId) -> CpuPin {
    // SAFETY: each model lets one thread play this CPU.
    unsafe { CpuPin::new(cpu) }
}

#[test]
fn a_slot_installed_by_another_cpu_is_complete() {
    loom::model(|| {
        let local = Arc::new(CpuLocal::new());
        let cpu = CpuId::new(1).unwrap();
        let owner = {
            let local = local.clone();
            thread::spawn(move || {
                // SAFETY: the cell is the slot's value, which `with` gives to one context.
                let found = local.with(&pin(cpu), |value: &Tracked| value.0.with(|value| unsafe { *value }));
                assert!(matches!(found, Ok(7) | Err(Unavailable::NotInstalled)), "{found:?}");
            })
        };
        let value = Tracked(UnsafeCell::new(0));
        // SAFETY: nobody else has the cell yet.
        value.0.with_mut(|value| unsafe { *value = 7 });
        let slot: &'static Slot<Tracked> = Box::leak(Box::new(Slot::new(value)));
        local.install(cpu, slot).ok().unwrap();
        owner.join().unwrap();
    });
}

#[test]
fn of_two_cpus_that_want_a_slot_one_gets_it() {
    loom::model(|| {
        let local = Arc::new(CpuLocal::new());
        let won = Arc::new(AtomicBool::new(false));
        let slot: &'static Slot<Cell<u32>> = Box::leak(Box::new(Slot::new(Cell::new(0))));
        let contend = |cpu: usize| {
            let (local, won) = (local.clone(), won.clone());
            move || {
                let cpu = CpuId::new(cpu).unwrap();
                if local.install(cpu, slot).is_ok() {
                    assert!(!won.swap(true, Ordering::Relaxed));
                    local.with(&pin(cpu), |value| value.set(value.get() + 1)).unwrap();
                }
            }
        };
        let other = thread::spawn(contend(1));
        contend(2)();
        other.join().unwrap();
        assert!(won.load(Ordering::Relaxed));
    });
}
