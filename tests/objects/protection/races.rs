//! Mappings of one object that several CPUs change at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use topomem::object::MemoryObject;
use topomem::region::Sharing::{Private, Shared};
use topomem::{Access, CpuId};

use super::{FIRST, OTHER, map, protect, unmap};
use crate::object_support::{Bench, at};

/// The one CPU maps to write, the other to execute; in between both look whether the object's frame is both.
#[test]
fn mappings_that_race_never_meet() {
    let bench = Bench::new(2);
    let object = bench.on(|pin| MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap());
    let users = [const { AtomicBool::new(false) }; 2];
    let (granted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    bench.sim.run(|pin| {
        let space = bench.space(pin);
        let me = pin.cpu().index();
        let access = if pin.cpu() == CpuId::BOOT { Access::WRITE } else { Access::EXECUTE };
        for round in 0..400 {
            let mapped = if round % 2 == 0 {
                map(pin, &space, &object, FIRST, (access, Shared)).is_ok()
            } else {
                map(pin, &space, &object, FIRST, (Access::READ, Shared)).unwrap();
                protect(pin, &space, FIRST, 4, access).is_ok()
            };
            if mapped {
                users[me].store(true, Ordering::SeqCst);
                assert!(!users[1 - me].load(Ordering::SeqCst), "writable and executable");
                bench.relax();
                assert!(!users[1 - me].load(Ordering::SeqCst), "writable and executable");
                users[me].store(false, Ordering::SeqCst);
            }
            let count = if mapped { &granted } else { &refused };
            count.fetch_add(1, Ordering::Relaxed);
            unmap(pin, &space, FIRST);
            bench.relax();
        }
        bench.leave(pin);
        drop(space);
    });
    assert!(granted.load(Ordering::Relaxed) > 0, "nothing was ever mapped");
    bench.on(|pin| bench.finish(pin, [], [object]));
}

/// A mapping that was removed counts until no CPU can use it, though no page has it any more.
#[test]
fn what_a_cpu_may_still_write_to_is_not_executed() {
    let bench = Bench::new(2);
    let sim = bench.sim;
    let (object, space) =
        bench.on(|pin| (MemoryObject::anonymous(bench.service, pin, 4 << 12).unwrap(), bench.space(pin)));
    let (ready, executes) = (AtomicBool::new(false), AtomicBool::new(false));
    let wait_for = |flag: &AtomicBool| {
        while !flag.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    };
    bench.sim.run(|pin| {
        if pin.cpu() == CpuId::BOOT {
            map(pin, &space, &object, FIRST, (Access::WRITE, Shared)).unwrap();
            sim.barrier();
            wait_for(&ready);
            // The other CPU has the translation, and takes no interrupt for a while.
            space.munmap(pin, at(FIRST), 4 << 12).unwrap().detach();
            let executable = bench.space(pin);
            map(pin, &executable, &object, OTHER, (Access::EXECUTE, Private)).unwrap();
            executes.store(true, Ordering::SeqCst);
            bench.leave(pin);
            drop(executable);
        } else {
            sim.barrier();
            sim.mask_interrupts();
            bench.store(pin, &space, FIRST, 1);
            ready.store(true, Ordering::SeqCst);
            for value in 0..200_000 {
                // In this order: if the write succeeded, nobody could execute the page then.
                let had_begun = executes.load(Ordering::SeqCst);
                if sim.store(at(FIRST), value).is_err() {
                    break;
                }
                assert!(!had_begun, "the page may be executed, and was written");
            }
            sim.unmask_interrupts();
            sim.take_interrupts();
            let stored = sim.store(at(FIRST), 0);
            assert!(stored.is_err() || !executes.load(Ordering::SeqCst), "the page was written later");
            wait_for_serving(&bench, &executes);
            bench.leave(pin);
        }
    });
    bench.on(|pin| bench.finish(pin, [space], [object]));
}

/// Takes interrupts until the flag is set.
fn wait_for_serving(bench: &Bench, flag: &AtomicBool) {
    while !flag.load(Ordering::SeqCst) {
        bench.relax();
    }
}
