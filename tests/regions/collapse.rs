//! Pages that are made one large page while another CPU may write to them.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod thread_time;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use thread_time::ThreadTime;
use topomem::region::{FaultAccess, MapRequest, PageFault, Placement};
use topomem::sim::Sim;
use topomem::{Access, AddressSpace, CpuId, CpuPin, PageSize, VirtAddr};

const LENGTH: u64 = 2 << 20;

fn start() -> VirtAddr {
    VirtAddr::new(1 << 30).unwrap()
}

fn activate(space: &AddressSpace<&'static Sim>, pin: &CpuPin) {
    // SAFETY: the CPU is online, and this is no handler.
    unsafe { space.activate(pin) };
}

fn load(sim: &'static Sim, pin: &CpuPin, space: &AddressSpace<&'static Sim>) -> u64 {
    loop {
        if let Ok(word) = sim.load(start()) {
            return word;
        }
        space.on_page_fault(pin, PageFault::new(start(), FaultAccess::Read)).unwrap();
    }
}

/// The pages lose the permission to write, and a CPU that has not heard of it writes to one after that. It finds
/// there what it wrote, so the collapse must not have copied the page before.
#[test]
fn a_collapse_waits_for_what_is_pending() {
    const ROUNDS: usize = 20;
    let written = (0..ROUNDS).filter(|_| write_while_collapsing()).count();
    assert!(written > 0, "no CPU kept its translation");
}

/// How long the collapsing CPU works before the other one writes, if it does not get ready.
const HEAD_START: Duration = Duration::from_millis(20);

/// Returns whether the CPU could still write: it loses its translation if it has to wait for a claim.
fn write_while_collapsing() -> bool {
    let sim: &'static Sim = Sim::builder().cpus(2).memory(32 << 20).build().unwrap();
    let service = sim.boot_service().unwrap();
    let space = sim.on(CpuId::BOOT, |pin| {
        let space = service.create_space(pin).unwrap();
        space.mmap(pin, &MapRequest::anonymous(LENGTH).placed(Placement::Fixed(start()))).unwrap();
        let write = PageFault::new(start(), FaultAccess::Write);
        space.on_page_fault(pin, write).unwrap();
        space
    });
    let (written, protected) = (AtomicU64::new(1), AtomicBool::new(false));
    let collapsing = ThreadTime::default();
    sim.run(|pin| {
        activate(&space, pin);
        if pin.cpu() == CpuId::BOOT {
            sim.barrier();
            space.mprotect(pin, start(), LENGTH, Access::READ).unwrap().detach();
            collapsing.begin();
            protected.store(true, Ordering::Release);
            space.collapse(pin, start(), LENGTH).unwrap();
        } else {
            sim.store(start(), 1).unwrap();
            sim.mask_interrupts();
            sim.barrier();
            // No barrier of the machine: a CPU that waits there answers what it is asked for.
            while !protected.load(Ordering::Acquire) {
                thread::yield_now();
            }
            let size = || space.translate(pin, start()).unwrap().size;
            while size() == PageSize::Size4KiB && !collapsing.has_used(HEAD_START) {
                thread::sleep(Duration::from_millis(1));
            }
            if sim.store(start(), 2).is_ok() {
                written.store(2, Ordering::Relaxed);
            }
            sim.unmask_interrupts();
            sim.take_interrupts();
            assert_eq!(load(sim, pin, &space), written.load(Ordering::Relaxed), "a write is lost");
        }
        sim.barrier();
        assert_eq!(load(sim, pin, &space), written.load(Ordering::Relaxed));
        // SAFETY: as in `activate`.
        unsafe { service.kernel_space().unwrap().activate(pin) };
        sim.barrier();
    });
    sim.on(CpuId::BOOT, |pin| {
        assert_eq!(space.translate(pin, start()).unwrap().size, PageSize::Size2MiB);
    });
    written.into_inner() == 2
}
