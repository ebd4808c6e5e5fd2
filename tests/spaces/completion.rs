//! The rule of completion on a simulated machine: what a complete ticket says of changes that other CPUs
//! made, that were moved elsewhere, or that an open batch has not announced.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use topomem::sim::{Fault, Sim, SimService};
use topomem::{
    AddressSpace, CpuId, CpuPin, FrameRequest, PageRange, PageSize, PhysFrame, Platform, Protection, VirtAddr,
};
use x86_64::structures::paging::mapper::Mapper;
use x86_64::structures::paging::{Page, PageTableFlags, Size4KiB};

type Space = AddressSpace<&'static Sim>;

const BASE: u64 = 0x10_0000_0000;
const OLD: u64 = 0x0101;
const NEW: u64 = 0x0202;

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

fn page(number: u64) -> PageRange {
    PageRange::page(VirtAddr::new(BASE + number * 4096).unwrap(), PageSize::Size4KiB)
}

fn map(space: &Space, pin: &CpuPin, range: PageRange) {
    space.map(pin, range, FrameRequest::frame(), Protection::USER_DATA).unwrap();
}

/// Three CPUs and a space. CPU 1 has page 0, which reads [`OLD`], cached for writing, and answers no
/// interrupt until it is asked to; CPUs 0 and 2 make changes.
struct Machine {
    sim: &'static Sim,
    service: &'static SimService,
    space: Space,
}

impl Machine {
    fn new() -> Machine {
        let sim = Sim::builder().cpus(3).memory(32 << 20).build().unwrap();
        let service = sim.boot_service().unwrap();
        let space = sim.on(cpu(0), |pin| service.create_space(pin).unwrap());
        sim.on(cpu(0), |pin| map(&space, pin, page(0)));
        sim.on(cpu(1), |pin| {
            // SAFETY: the CPU is online, and this is no handler.
            unsafe { space.activate(pin) };
            sim.store(page(0).start(), OLD).unwrap();
        });
        Machine { sim, service, space }
    }

    /// CPU 1 uses a page with its interrupts held up for as long.
    fn uninterrupted<T>(&self, body: impl FnOnce(&Sim) -> T) -> T {
        self.sim.on(cpu(1), |_| {
            self.sim.mask_interrupts();
            body(self.sim)
        })
    }

    fn load_uninterrupted(&self, page: PageRange) -> Result<u64, Fault> {
        self.uninterrupted(|sim| sim.load(page.start()))
    }

    fn store_uninterrupted(&self, page: PageRange) -> Result<(), Fault> {
        self.uninterrupted(|sim| sim.store(page.start(), OLD))
    }

    /// CPU 1 takes the interrupts that wait for it.
    fn answer(&self) {
        self.sim.on(cpu(1), |_| {
            self.sim.unmask_interrupts();
            self.sim.take_interrupts();
        });
    }

    fn frame(&self, pin: &CpuPin, at: PageRange) -> PhysFrame {
        self.space.translate(pin, at.start()).unwrap().leaf.frame
    }
}

#[test]
fn the_same_protection_waits_for_the_first() {
    let machine = Machine::new();
    let space = &machine.space;
    let protect =
        |by| machine.sim.on(cpu(by), |pin| space.protect(pin, page(0), Protection::USER_READ_ONLY).unwrap());
    let (mut first, mut second) = (protect(0), protect(2));
    assert!(!first.is_complete() && !second.is_complete());
    assert_eq!(machine.store_uninterrupted(page(0)), Ok(()), "CPU 1 has not heard of it");
    machine.answer();
    assert!(first.is_complete() && second.is_complete());
    assert!(machine.store_uninterrupted(page(0)).is_err());
}

#[test]
fn the_same_unmapping_waits_for_the_first_though_that_was_left_to_the_service_task() {
    let machine = Machine::new();
    let space = &machine.space;
    machine.sim.on(cpu(0), |pin| space.unmap(pin, page(0)).unwrap().detach());
    let mut second = machine.sim.on(cpu(2), |pin| space.unmap(pin, page(0)).unwrap());
    assert_eq!(second.pages(), 0);
    assert!(!second.is_complete());
    machine.answer();
    assert!(second.is_complete());
    machine.sim.on(cpu(2), |pin| {
        second.wait(pin);
        map(space, pin, page(0));
    });
    let frame = machine.sim.on(cpu(0), |pin| machine.frame(pin, page(0)));
    // SAFETY: the frame is the space's, and in the arena; no CPU is running.
    unsafe { machine.sim.phys_to_virt(frame.start_address()).cast::<u64>().write(NEW) };
    assert_eq!(machine.load_uninterrupted(page(0)), Ok(NEW));
}

#[test]
fn a_change_of_other_pages_is_not_waited_for() {
    let machine = Machine::new();
    let space = &machine.space;
    let mut first = machine.sim.on(cpu(0), |pin| space.unmap(pin, page(0)).unwrap());
    let mut second = machine.sim.on(cpu(2), |pin| space.unmap(pin, page(7)).unwrap());
    let mut third = machine.sim.on(cpu(2), |pin| space.pending(pin, page(7)).unwrap());
    assert!(!first.is_complete() && second.is_complete() && third.is_complete());
    machine.answer();
    assert!(first.is_complete());
    machine.sim.on(cpu(0), |pin| first.wait(pin));
}

#[test]
fn a_wider_protection_waits_for_the_narrower_before_it() {
    let machine = Machine::new();
    let space = &machine.space;
    machine.sim.on(cpu(0), |pin| {
        space.unmap(pin, page(0)).unwrap().detach();
        space.map(pin, page(0), FrameRequest::frame(), Protection::USER_READ_ONLY).unwrap();
    });
    let protect = |pin: &CpuPin| space.protect(pin, page(0), Protection::USER_DATA).unwrap();
    let mut ticket = machine.sim.on(cpu(2), protect);
    assert!(!ticket.is_complete(), "CPU 1 may use the frame from before");
    machine.answer();
    assert!(ticket.is_complete());
}

#[test]
fn the_mapper_returns_when_the_change_of_another_cpu_is_complete() {
    let machine = Machine::new();
    let (space, sim) = (&machine.space, machine.sim);
    let flags = PageTableFlags::PRESENT | PageTableFlags::USER_ACCESSIBLE | PageTableFlags::NO_EXECUTE;
    let page_0 = Page::<Size4KiB>::containing_address(x86_64::VirtAddr::new(BASE));
    sim.on(cpu(0), |pin| space.protect(pin, page(0), Protection::USER_READ_ONLY).unwrap().detach());
    let returned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sim.on(cpu(2), |pin| {
                // SAFETY: nothing relies on what the page holds.
                let flushed = unsafe { space.mapper(pin).update_flags(page_0, flags) };
                flushed.unwrap().ignore();
                returned.store(true, Ordering::Release);
            });
        });
        // It returns once CPU 1 has answered, which is after this.
        assert!(machine.store_uninterrupted(page(0)).is_ok());
        assert!(!returned.load(Ordering::Acquire));
        machine.answer();
    });
    assert!(machine.store_uninterrupted(page(0)).is_err());
}

#[test]
fn a_change_of_an_open_batch_counts() {
    let machine = Machine::new();
    let (space, sim) = (&machine.space, machine.sim);
    sim.on(cpu(0), |pin| {
        let mut batch = space.batch(pin);
        batch.protect(page(0), Protection::USER_READ_ONLY).unwrap();
        let mut plain = space.protect(pin, page(0), Protection::USER_READ_ONLY).unwrap();
        let mut pending = sim.on(cpu(2), |pin| space.pending(pin, page(0)).unwrap());
        assert!(!plain.is_complete() && !pending.is_complete());
        machine.answer();
        assert!(plain.is_complete() && pending.is_complete(), "they wait for no batch to be issued");
        assert!(machine.store_uninterrupted(page(0)).is_err());
        machine.answer();
        let mut issued = batch.issue();
        machine.answer();
        assert!(issued.is_complete());
    });
}

#[test]
fn a_batch_of_changes_that_find_nothing_waits_for_what_is_pending() {
    let machine = Machine::new();
    let (space, sim) = (&machine.space, machine.sim);
    sim.on(cpu(0), |pin| space.unmap(pin, page(0)).unwrap().detach());
    sim.on(cpu(2), |pin| {
        let mut batch = space.batch(pin);
        batch.unmap(page(5)).unwrap();
        assert!(batch.issue().is_complete(), "nothing is pending there");
        let mut batch = space.batch(pin);
        batch.unmap(page(0)).unwrap();
        let mut ticket = batch.issue();
        assert!(!ticket.is_complete());
        machine.answer();
        assert!(ticket.is_complete());
    });
}

/// Page 0 is moved to page 9 in a batch that stays open, or with a ticket that is not waited for.
fn moved(open: bool, then: impl FnOnce(&Machine, &CpuPin)) {
    let machine = Machine::new();
    let space = &machine.space;
    machine.sim.on(cpu(0), |pin| {
        let mut batch = space.batch(pin);
        if open {
            batch.remap(page(0), page(9).start()).unwrap();
        } else {
            space.remap(pin, page(0), page(9).start()).unwrap().detach();
        }
        machine.sim.on(cpu(2), |pin| then(&machine, pin));
        drop(batch);
    });
}

#[test]
fn a_moved_frame_is_freed_when_its_old_place_is_gone() {
    for open in [true, false] {
        moved(open, |machine, pin| {
            let allocated = || machine.service.frames().validate().unwrap().allocated;
            let before = allocated();
            let mut unmapping = machine.space.unmap(pin, page(9)).unwrap();
            assert!(!unmapping.is_complete());
            assert_eq!(machine.load_uninterrupted(page(0)), Ok(OLD), "the frame is still there");
            machine.answer();
            assert!(unmapping.is_complete());
            unmapping.wait(pin);
            assert_eq!(allocated(), before - 1);
            assert!(machine.load_uninterrupted(page(0)).is_err());
        });
    }
}

#[test]
fn a_moved_page_is_protected_when_its_old_place_is_gone() {
    for open in [true, false] {
        moved(open, |machine, pin| {
            let mut protected = machine.space.protect(pin, page(9), Protection::USER_READ_ONLY).unwrap();
            assert!(!protected.is_complete());
            assert_eq!(machine.store_uninterrupted(page(0)), Ok(()));
            machine.answer();
            assert!(protected.is_complete());
            assert!(
                machine.store_uninterrupted(page(0)).is_err()
                    && machine.store_uninterrupted(page(9)).is_err()
            );
        });
    }
}

/// What is documented of mapping again: other CPUs may use the old frame, which is still allocated, until
/// the unmapping is complete; the CPU that unmapped uses the new one at once.
#[test]
fn a_page_that_is_mapped_again_is_new_when_what_was_pending_is_complete() {
    let machine = Machine::new();
    let (space, sim) = (&machine.space, machine.sim);
    sim.on(cpu(0), |pin| {
        let old = machine.frame(pin, page(0));
        // SAFETY: the CPU is online, and this is no handler.
        unsafe { space.activate(pin) };
        sim.load(page(0).start()).unwrap();
        space.unmap(pin, page(0)).unwrap().detach();
        map(space, pin, page(0));
        sim.store(page(0).start(), NEW).unwrap();
        assert_ne!(machine.frame(pin, page(0)), old, "the old frame is not free yet");
    });
    assert_eq!(machine.load_uninterrupted(page(0)), Ok(OLD));
    let mut pending = sim.on(cpu(2), |pin| space.pending(pin, page(0)).unwrap());
    assert!(!pending.is_complete());
    machine.answer();
    assert!(pending.is_complete());
    assert_eq!(machine.load_uninterrupted(page(0)), Ok(NEW));
}

/// A CPU with a cached way to an unlinked table of the kernel's finds nothing at a page that is mapped
/// there since, until what was pending is complete.
#[test]
fn a_page_that_is_mapped_below_an_unlinked_table_is_there_when_what_was_pending_is_complete() {
    let machine = Machine::new();
    let sim = machine.sim;
    let kernel = machine.service.kernel_space().unwrap();
    let page = |number: u64| {
        PageRange::page(VirtAddr::new(Sim::WINDOW.as_u64() + number * 4096).unwrap(), PageSize::Size4KiB)
    };
    let map = |pin: &CpuPin, number| {
        kernel.map(pin, page(number), FrameRequest::frame(), Protection::KERNEL_DATA).unwrap();
    };
    sim.on(cpu(0), |pin| map(pin, 0));
    sim.on(cpu(1), |_| sim.load(page(0).start()).unwrap());
    let all = PageRange::page(page(0).start(), PageSize::Size1GiB);
    sim.on(cpu(0), |pin| {
        kernel.unmap(pin, all).unwrap().detach();
        map(pin, 7);
        assert!(sim.load(page(7).start()).is_ok(), "the CPU that unmapped finds the page at once");
    });
    assert!(machine.load_uninterrupted(page(7)).is_err());
    let mut pending = sim.on(cpu(0), |pin| kernel.pending(pin, page(7)).unwrap());
    assert!(!pending.is_complete());
    machine.answer();
    // CPU 2 is idle: it answers, too.
    sim.on(cpu(2), |_| sim.take_interrupts());
    assert!(pending.is_complete());
    assert!(machine.load_uninterrupted(page(7)).is_ok());
}

/// CPU 0 moves a page, CPU 1 unmaps the new place as soon as it finds the page there, and CPU 2 reads the
/// old place: never what the frame's next owner writes.
#[test]
fn a_page_is_moved_and_unmapped_while_a_third_cpu_reads_it() {
    const ROUNDS: u64 = 500;
    let sim = Sim::builder().cpus(3).memory(32 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    let space = sim.on(cpu(0), |pin| service.create_space(pin).unwrap());
    let stale = AtomicU64::new(0);
    let write = |frame: PhysFrame, value: u64| {
        // SAFETY: the frame is in the arena, and allocated by this test.
        unsafe { sim.phys_to_virt(frame.start_address()).cast::<u64>().write_volatile(value) };
    };
    sim.run(|pin| {
        let me = pin.cpu().index();
        if me == 2 {
            // SAFETY: the CPU is online, and this is no handler.
            unsafe { space.activate(pin) };
        }
        for round in 0..ROUNDS {
            if me == 0 {
                map(&space, pin, page(0));
                write(space.translate(pin, page(0).start()).unwrap().leaf.frame, round);
            }
            sim.barrier();
            if me == 2 {
                assert_eq!(sim.load(page(0).start()), Ok(round));
            }
            sim.barrier();
            match me {
                0 => space.remap(pin, page(0), page(4096).start()).unwrap().wait(pin),
                1 => loop {
                    let unmapping = space.unmap(pin, page(4096)).unwrap();
                    let found = unmapping.pages() == 1;
                    unmapping.wait(pin);
                    if found {
                        let next: Vec<_> =
                            (0..32).map(|_| service.alloc(pin, &FrameRequest::frame()).unwrap()).collect();
                        next.iter().for_each(|&frame| write(frame, u64::MAX));
                        for frame in next {
                            // SAFETY: it was just allocated, and is used no more.
                            unsafe { service.frames().free(pin, frame, topomem::Order::FRAME).unwrap() };
                        }
                        break;
                    }
                    std::thread::yield_now();
                },
                _ => {
                    while let Ok(value) = sim.load(page(0).start()) {
                        if value != round {
                            stale.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
            sim.barrier();
        }
        // SAFETY: as above.
        unsafe { service.kernel_space().unwrap().activate(pin) };
    });
    assert_eq!(stale.load(Ordering::Relaxed), 0, "a freed frame was read at its old place");
}
