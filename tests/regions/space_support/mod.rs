//! Spaces on a simulated machine, as tests use them.
#![allow(dead_code, reason = "not each test program uses all of it")]

pub(crate) mod nodes;

use topomem::region::{FaultAccess, FaultError, PageFault, Resolved};
use topomem::sim::{Fault, Sim, SimService};
use topomem::{AddressSpace, CpuPin, PendingWork, VirtAddr};

pub(crate) type Space = AddressSpace<&'static Sim>;

pub(crate) fn at(page: u64) -> VirtAddr {
    VirtAddr::new(page << 12).unwrap()
}

pub(crate) fn allocated(service: &SimService) -> u64 {
    service.frames().validate().unwrap().allocated
}

pub(crate) fn activate(space: &Space, pin: &CpuPin) {
    // SAFETY: the CPU is online, and this is no handler.
    unsafe { space.activate(pin) };
}

pub(crate) fn deactivate(service: &'static SimService, pin: &CpuPin) {
    // SAFETY: as above.
    unsafe { service.kernel_space().unwrap().activate(pin) };
}

pub(crate) fn run_pending_work(sim: &'static Sim, service: &'static SimService, pin: &CpuPin) {
    while service.run_pending_work(pin) != PendingWork::Done {
        sim.take_interrupts();
    }
}

/// Ends the space, and checks that the machine has as many frames as before.
pub(crate) fn finish(
    sim: &'static Sim,
    service: &'static SimService,
    pin: &CpuPin,
    space: Space,
    before: u64,
) {
    deactivate(service, pin);
    drop(space);
    run_pending_work(sim, service, pin);
    assert_eq!(allocated(service), before, "frames leaked");
}

pub(crate) fn write_fault(space: &Space, pin: &CpuPin, page: u64) -> Resolved {
    space.on_page_fault(pin, PageFault::new(at(page), FaultAccess::Write)).unwrap()
}

/// Accesses the first word of `page` of the active space as a program does: resolves page faults, and waits for
/// pagers.
pub(crate) fn touch(
    sim: &'static Sim,
    pin: &CpuPin,
    space: &Space,
    page: u64,
    store: Option<u64>,
) -> Result<u64, FaultError> {
    touch_at(sim, pin, space, at(page), store)
}

/// Accesses the word at `address` likewise.
pub(crate) fn touch_at(
    sim: &'static Sim,
    pin: &CpuPin,
    space: &Space,
    address: VirtAddr,
    store: Option<u64>,
) -> Result<u64, FaultError> {
    loop {
        let (outcome, access) = match store {
            Some(value) => (sim.store(address, value).map(|()| value), FaultAccess::Write),
            None => (sim.load(address), FaultAccess::Read),
        };
        match outcome {
            Ok(value) => return Ok(value),
            Err(Fault::NotPresent { .. } | Fault::Denied { .. }) => {
                match space.on_page_fault(pin, PageFault::new(address, access)) {
                    Ok(_) => {}
                    Err(FaultError::Waits(wait)) => wait
                        .wait(|| {
                            sim.take_interrupts();
                            std::thread::yield_now();
                        })
                        .unwrap(),
                    Err(error) => return Err(error),
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
}
