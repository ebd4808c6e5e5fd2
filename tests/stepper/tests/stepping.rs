//! The stepper itself: stops are where they are said to be, and whatever happens, the thread goes on.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(miri), not(loom)))]
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use topomem_stepper::{Context, Matrix, Operation, Plan, Trace, count, masked, stop_after};

/// Three stores that a context can tell apart.
fn three(steps: &AtomicU64) {
    for step in 1..=3 {
        steps.store(step, Relaxed);
    }
}

#[test]
fn contexts_run_between_all_steps_in_their_order() {
    let steps = AtomicU64::new(0);
    let instructions = count(|| three(&steps));
    let mut seen = Vec::new();
    for at in 0..instructions {
        steps.store(0, Relaxed);
        let found = AtomicU64::new(9);
        let stop = stop_after(at, || three(&steps), |_| found.store(steps.load(Relaxed), Relaxed));
        assert_eq!(stop.unwrap().at, at);
        assert_eq!(steps.load(Relaxed), 3, "the operation goes on");
        seen.push(found.into_inner());
    }
    assert!(seen.is_sorted());
    seen.dedup();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn a_trace_leads_to_the_same_places() {
    let steps = AtomicU64::new(0);
    let operation = || three(&steps);
    let mut trace = Trace::of(operation);
    for at in 0..trace.len() {
        let notes = [const { AtomicU64::new(9) }; 2];
        steps.store(0, Relaxed);
        let stepped = stop_after(at, operation, |_| notes[0].store(steps.load(Relaxed), Relaxed));
        steps.store(0, Relaxed);
        let traced = trace.stop_after(at, |_| notes[1].store(steps.load(Relaxed), Relaxed));
        assert_eq!(stepped.map(|stop| stop.at), traced.map(|stop| stop.at));
        assert_eq!(notes[0].load(Relaxed), notes[1].load(Relaxed));
    }
}

#[test]
fn a_trace_leads_through_loops() {
    let rounds = AtomicU64::new(0);
    let mut trace = Trace::of(|| (0..100).for_each(|_| _ = rounds.fetch_add(1, Relaxed)));
    assert!(trace.traps() < trace.len() * trace.len() / 2);
    let mut before = 0;
    for at in (0..trace.len()).step_by(7) {
        rounds.store(0, Relaxed);
        let found = AtomicU64::new(0);
        let stop = trace.stop_after(at, |_| found.store(rounds.load(Relaxed), Relaxed));
        assert_eq!(stop.unwrap().at, at);
        let found = found.into_inner();
        assert!(found >= before, "not before an earlier stop");
        before = found;
    }
    assert_eq!(before, 100);
}

#[test]
fn another_course_is_told() {
    let short = AtomicBool::new(false);
    let steps = AtomicU64::new(0);
    let mut trace = Trace::of(|| {
        if !short.load(Relaxed) {
            three(&steps);
        }
    });
    short.store(true, Relaxed);
    assert_eq!(trace.stop_after(trace.len() / 2, |_| {}), None);
}

#[test]
fn an_operation_that_ends_before_is_not_stopped() {
    let called = AtomicBool::new(false);
    let stop = stop_after(1_000_000, || (), |_| called.store(true, Relaxed));
    assert_eq!((stop, called.into_inner()), (None, false));
}

#[test]
fn a_stop_names_its_function() {
    let steps = AtomicU64::new(0);
    let places: Vec<String> = (0..count(|| three(&steps)))
        .map(|at| stop_after(at, || three(&steps), |_| {}).unwrap().place())
        .collect();
    assert!(places.iter().any(|place| place.contains("stepping.rs:")), "{places:?}");
}

#[test]
fn panics_are_carried_out() {
    let finished = AtomicBool::new(false);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        stop_after(3, || finished.store(true, Relaxed), |_| panic!("in the context"));
    }));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"in the context"));
    assert!(finished.into_inner(), "the operation ends first");
    let caught = catch_unwind(|| {
        stop_after(u64::MAX, || panic!("in the operation"), |_| {});
    });
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"in the operation"));
    // The thread can step again.
    assert!(count(|| ()) > 0);
}

#[test]
fn contexts_cannot_step() {
    let caught = catch_unwind(|| stop_after(0, || (), |_| _ = count(|| ())));
    assert!(caught.is_err());
}

#[test]
fn masked_code_is_not_stopped() {
    let inside = AtomicBool::new(false);
    let operation = || {
        masked(|| {
            inside.store(true, Relaxed);
            inside.store(false, Relaxed);
        });
    };
    for at in 0..count(operation) {
        let stop = stop_after(at, operation, |_| assert!(!inside.load(Relaxed)));
        assert!(stop.is_some());
    }
    // Without a trap flag nothing changes.
    assert_eq!(masked(|| 3), 3);
}

#[test]
fn repeated_instructions_are_one() {
    fn fill(place: &mut [u8; 4096], value: u8) {
        // SAFETY: stores within the array; the direction flag is clear.
        unsafe {
            std::arch::asm!("rep stosb", inout("rcx") place.len() => _,
                inout("rdi") place.as_mut_ptr() => _, in("al") value, options(nostack));
        }
    }
    fn copy(to: &mut [u64; 512], from: &[u64; 512]) {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("rep movsq", inout("rcx") 512_usize => _, inout("rdi") to.as_mut_ptr() => _,
                inout("rsi") from.as_ptr() => _, options(nostack));
        }
    }
    let mut place = [0; 4096];
    assert!(count(|| fill(&mut place, 7)) < 200);
    assert_eq!(place, [7; 4096]);
    let from: [u64; 512] = std::array::from_fn(|index| (index as u64).wrapping_mul(0x0102_0304_0506_0708));
    let mut to = [0; 512];
    assert!(count(|| copy(&mut to, &from)) < 200);
    assert_eq!(to, from);
}

#[test]
fn threads_step_beside_each_other() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let steps = AtomicU64::new(0);
                for at in 0..count(|| three(&steps)) {
                    let met = AtomicBool::new(false);
                    stop_after(at, || three(&steps), |_| met.store(true, Relaxed));
                    assert!(met.into_inner());
                }
            });
        }
    });
}

const PLAIN: Operation<AtomicU64> = Operation {
    name: "plain",
    prepare: |counter| counter.store(0, Relaxed),
    // Without the black box, both become one instruction.
    run: |counter| counter.store(black_box(counter.load(Relaxed)) + 1, Relaxed),
    undo: |_| {},
};

const ATOMIC: Operation<AtomicU64> =
    Operation { name: "atomic", run: |counter| _ = counter.fetch_add(1, Relaxed), ..PLAIN };

const INCREMENTS: Context<AtomicU64> = Context {
    name: "increments",
    run: |counter| _ = counter.fetch_add(1, Relaxed),
    undo: |counter| assert_eq!(counter.load(Relaxed), 2, "an increment is lost"),
};

fn explore(operation: Operation<AtomicU64>) {
    Matrix {
        name: "counters",
        scene: AtomicU64::default,
        operations: &[operation],
        contexts: &[INCREMENTS],
        check: |_| {},
        plan: Plan::exhaustive(),
        renew: None,
    }
    .explore();
}

#[test]
fn a_matrix_finds_what_is_lost() {
    explore(ATOMIC);
    let caught = catch_unwind(|| explore(PLAIN));
    let text = caught.unwrap_err().downcast_ref::<String>().unwrap().clone();
    assert!(text.contains("plain / increments: ") && text.contains("an increment is lost"), "{text}");
    assert!(text.contains("stopped after instruction"), "{text}");
}
