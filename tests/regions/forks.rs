//! Forks and ends of spaces of all shapes, on a simulated machine.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

use topomem::address_space::Closing;
use topomem::frames::FrameRequest;
use topomem::region::{ForkError, MapRequest, Placement, Resolved};
use topomem::shootdown::Lazy;
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, Order};

mod space_support;
use space_support::{Space, activate, allocated, at, deactivate, run_pending_work, touch, write_fault};

fn booted(cpus: usize, megabytes: u64) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(1).cpus(cpus).memory(megabytes << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn map(space: &Space, pin: &CpuPin, page: u64, count: u64) {
    let request = MapRequest::anonymous(count << 12).placed(Placement::FixedNoReplace(at(page)));
    space.mmap(pin, &request).unwrap();
}

/// The pages of a space, each with its own number in it.
fn check(sim: &'static Sim, pin: &CpuPin, space: &Space, pages: impl Iterator<Item = u64>) {
    activate(space, pin);
    for page in pages {
        assert_eq!(touch(sim, pin, space, page, None).unwrap(), page);
    }
}

/// Forks a space of `pages`, has both write to some, and ends both; all frames come back with the last.
fn fork_and_end(pages: &[u64]) {
    let (sim, service) = booted(1, 160);
    sim.on(CpuId::BOOT, |pin| {
        run_pending_work(sim, service, pin);
        let before = allocated(service);
        let parent = service.create_space(pin).unwrap();
        activate(&parent, pin);
        let together = pages.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        if together {
            map(&parent, pin, pages[0], pages.len() as u64);
        }
        for &page in pages {
            if !together {
                map(&parent, pin, page, 1);
            }
            touch(sim, pin, &parent, page, Some(page)).unwrap();
        }
        let alone = allocated(service);
        for round in 0..3 {
            let child = parent.fork(pin).unwrap();
            assert_eq!(child.mapped_pages(), pages.len() as u64);
            assert!(allocated(service) - alone <= alone - before - pages.len() as u64, "frames were copied");
            check(sim, pin, &child, pages.iter().copied());
            let written = pages.iter().copied().step_by(7);
            for page in written.clone() {
                assert_eq!(write_fault(&child, pin, page), Resolved::Copied);
                touch(sim, pin, &child, page, Some(page + 1)).unwrap();
            }
            // In the first round the parent gives its frames up, and the child has them for itself.
            activate(&parent, pin);
            if round == 0 {
                for &page in pages.iter().rev().step_by(5) {
                    touch(sim, pin, &parent, page, Some(page)).unwrap();
                }
            }
            deactivate(service, pin);
            child.close().wait(pin);
            check(sim, pin, &parent, pages.iter().copied());
            deactivate(service, pin);
            assert_eq!(allocated(service), alone, "the end of a child returns before its memory is free");
        }
        // Nobody else has them any more.
        activate(&parent, pin);
        for &page in pages {
            assert!(matches!(write_fault(&parent, pin, page), Resolved::Reused | Resolved::Spurious));
        }
        deactivate(service, pin);
        parent.close().wait(pin);
        assert_eq!(allocated(service), before);
    });
}

#[test]
fn spaces_of_few_and_of_many_pages() {
    for count in [1, 64, 512, 16384] {
        fork_and_end(&(0x10_0000..0x10_0000 + count).collect::<Vec<_>>());
    }
}

#[test]
fn a_space_with_a_page_in_each_of_many_tables() {
    fork_and_end(&(1..=512).map(|table| table * 512 + table).collect::<Vec<_>>());
    // And in each of many directories.
    fork_and_end(&(1..=40).map(|table| (table << 27) - 1).collect::<Vec<_>>());
}

#[test]
fn forks_of_forks_end_in_any_order() {
    const PAGES: u64 = 700;
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let (sim, service) = booted(1, 64);
        sim.on(CpuId::BOOT, |pin| {
            run_pending_work(sim, service, pin);
            let before = allocated(service);
            let mut spaces = vec![Some(service.create_space(pin).unwrap())];
            map(spaces[0].as_ref().unwrap(), pin, 512, PAGES);
            let write = |space: &Space, page, value| {
                activate(space, pin);
                touch(sim, pin, space, page, Some(value)).unwrap();
            };
            (512..512 + PAGES).for_each(|page| write(spaces[0].as_ref().unwrap(), page, page));
            for generation in 1..4 {
                let parent = spaces[generation - 1].as_ref().unwrap();
                let child = parent.fork(pin).unwrap();
                // Each has pages of its own.
                (512..512 + PAGES)
                    .skip(generation)
                    .step_by(4)
                    .for_each(|page| write(&child, page, page + generation as u64));
                spaces.push(Some(child));
            }
            deactivate(service, pin);
            for ended in order {
                let space: Space = spaces[ended].take().unwrap();
                space.close().wait(pin);
                for (generation, space) in spaces.iter().enumerate() {
                    let Some(space) = space else { continue };
                    activate(space, pin);
                    for page in 512..512 + PAGES {
                        let writer = (page - 512) as usize % 4;
                        let writer = if (1..=generation).contains(&writer) { writer as u64 } else { 0 };
                        assert_eq!(touch(sim, pin, space, page, None).unwrap(), page + writer);
                    }
                }
                deactivate(service, pin);
            }
            assert_eq!(allocated(service), before);
        });
    }
}

/// Says at its end, by a panic or not, that the other CPUs need not go on.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Two CPUs write numbers to pages in turn, each to its own, while a third forks: a copy that has a number has
/// it, or a later one, in the pages that its writer wrote before. And what it has stays while they write on.
#[test]
fn a_fork_is_consistent_while_two_cpus_write() {
    const PAGES: u64 = 6;
    const FORKS: u64 = 25;
    let (sim, service) = booted(3, 64);
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    let done = AtomicBool::new(false);
    let rounds: [AtomicU64; 2] = Default::default();
    // In tables of their own, and next to those of the other writer.
    let page_of = |writer: u64, page: u64| page * 512 + writer;
    sim.run(|pin| {
        activate(&space, pin);
        if pin.cpu() == CpuId::BOOT {
            map(&space, pin, 512, PAGES * 512);
        }
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            let _done = Done(&done);
            for _ in 0..FORKS {
                let child = space.fork(pin).unwrap();
                activate(&child, pin);
                let has = |writer, page| touch(sim, pin, &child, page_of(writer, page), None).unwrap();
                let found = [1, 2].map(|writer| [1, 2, 3, 4, 5, 6].map(|page| has(writer, page)));
                for (writer, numbers) in (1..).zip(found) {
                    for (page, pair) in (2..).zip(numbers.windows(2)) {
                        let right = pair[1] == pair[0] || pair[1] + 1 == pair[0];
                        assert!(right, "page {page} of {writer} has {} after {}", pair[1], pair[0]);
                    }
                }
                let until = rounds.each_ref().map(|rounds| rounds.load(Ordering::Acquire) + 2);
                while (0..2).any(|writer| rounds[writer].load(Ordering::Acquire) < until[writer]) {
                    sim.take_interrupts();
                    std::thread::yield_now();
                }
                let again = [1, 2].map(|writer| [1, 2, 3, 4, 5, 6].map(|page| has(writer, page)));
                assert_eq!(again, found, "the copy has what was written afterwards");
                activate(&space, pin);
                child.close().wait(pin);
            }
        } else {
            let writer = pin.cpu().index() as u64;
            let mut number = 1;
            while !done.load(Ordering::Acquire) {
                for page in 1..=PAGES {
                    touch(sim, pin, &space, page_of(writer, page), Some(number)).unwrap();
                }
                number += 1;
                rounds[writer as usize - 1].fetch_add(1, Ordering::Release);
            }
        }
        sim.barrier();
        deactivate(service, pin);
        sim.barrier();
    });
}

/// A fork that finds no memory for one of its tables leaves nothing behind, and the parent goes on as before.
#[test]
fn memory_that_runs_out_in_a_fork() {
    let (sim, service) = booted(1, 24);
    sim.on(CpuId::BOOT, |pin| {
        let parent = service.create_space(pin).unwrap();
        activate(&parent, pin);
        let pages: Vec<u64> = (1..=20).map(|table| table << 20).collect();
        for &page in &pages {
            map(&parent, pin, page, 1);
            touch(sim, pin, &parent, page, Some(page)).unwrap();
        }
        run_pending_work(sim, service, pin);
        let mut taken = Vec::new();
        while let Ok(frame) = service.alloc(pin, &FrameRequest::frame()) {
            taken.push(frame);
        }
        let mut refused = 0;
        let child = loop {
            let before = allocated(service);
            match parent.fork(pin) {
                Ok(child) => break child,
                Err(ForkError::OutOfFrames(_)) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            run_pending_work(sim, service, pin);
            assert_eq!(allocated(service), before, "frames leaked");
            for &page in &pages {
                assert_eq!(touch(sim, pin, &parent, page, Some(page)).unwrap(), page);
            }
            // SAFETY: it was allocated above, and nobody uses it.
            unsafe { service.frames().free(pin, taken.pop().unwrap(), Order::FRAME) }.unwrap();
        };
        assert!(refused >= 20, "{refused} forks were refused");
        check(sim, pin, &child, pages.iter().copied());
        deactivate(service, pin);
        child.close().wait(pin);
        check(sim, pin, &parent, pages.iter().copied());
    });
}

#[test]
fn a_copy_has_its_parents_program_break() {
    let (sim, service) = booted(1, 24);
    sim.on(CpuId::BOOT, |pin| {
        let parent = service.create_space(pin).unwrap();
        parent.set_heap_start(at(512));
        assert_eq!(parent.brk(pin, at(515)), at(515));
        let child = parent.fork(pin).unwrap();
        assert_eq!(child.brk(pin, at(0)), at(515), "below the start: it stays where it is");
        assert_eq!(child.brk(pin, at(517)), at(517));
        assert_eq!(write_fault(&child, pin, 516), Resolved::Zeroed);
        assert_eq!(parent.brk(pin, at(0)), at(515), "each has its own");
    });
}

fn poll(closing: &mut Closing<&'static Sim>) -> bool {
    std::pin::Pin::new(closing).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn an_end_goes_in_steps_and_may_be_given_up() {
    let (sim, service) = booted(1, 160);
    sim.on(CpuId::BOOT, |pin| {
        run_pending_work(sim, service, pin);
        let before = allocated(service);
        for given_up in [false, true] {
            let space = service.create_space(pin).unwrap();
            map(&space, pin, 512, 16384);
            (512..512 + 16384).for_each(|page| {
                write_fault(&space, pin, page);
            });
            let mut closing = space.close();
            let mut polls = 1;
            while !poll(&mut closing) && !given_up {
                polls += 1;
            }
            assert!(given_up || polls > 3, "{polls} polls: no bounded steps");
            assert!(given_up == (allocated(service) > before));
            drop(closing);
            run_pending_work(sim, service, pin);
            assert_eq!(allocated(service), before);
        }
    });
}

#[test]
fn a_space_in_use_is_left_to_the_service_task() {
    let (sim, service) = booted(2, 64);
    let other = CpuId::new(1).unwrap();
    for lazy in [false, true] {
        let before = sim.on(CpuId::BOOT, |pin| {
            run_pending_work(sim, service, pin);
            allocated(service)
        });
        let space = sim.on(CpuId::BOOT, |pin| {
            let space = service.create_space(pin).unwrap();
            map(&space, pin, 512, 600);
            (512..1112).for_each(|page| {
                write_fault(&space, pin, page);
            });
            space
        });
        sim.on(other, |pin| {
            activate(&space, pin);
            touch(sim, pin, &space, 512, None).unwrap();
            if lazy {
                // SAFETY: the CPU uses nothing of the lower half until it has left laziness.
                unsafe { service.shootdown().enter_lazy(pin, Lazy::Idle) };
            }
        });
        sim.on(CpuId::BOOT, |pin| {
            space.close().wait(pin);
            assert!(allocated(service) > before, "a CPU has the space active");
        });
        sim.on(other, |pin| {
            if lazy {
                service.shootdown().leave_lazy(pin);
            }
            deactivate(service, pin);
        });
        sim.on(CpuId::BOOT, |pin| {
            run_pending_work(sim, service, pin);
            assert_eq!(allocated(service), before);
        });
    }
}
