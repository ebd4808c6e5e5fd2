//! CPUs that come and go on a simulated machine: what is refused changes nothing.
// As in spaces.rs.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::Layout;

use topomem::shootdown::OfflineError as ShootdownRefuses;
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, FrameRequest, OfflineError, OnlineError, Order};

fn booted() -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().cpus(2).memory(64 << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn second() -> CpuId {
    CpuId::new(1).unwrap()
}

/// Frames and objects of the CPU's own, served without a look at what is shared.
fn is_served_locally(service: &SimService, pin: &CpuPin) -> bool {
    let hits = || {
        let stats = service.cpu_stats(pin.cpu());
        (stats.magazine.map(|magazine| magazine.hits), stats.heap.is_some())
    };
    let heap = service.heap().unwrap().heap();
    let layout = Layout::from_size_align(64, 8).unwrap();
    let before = hits();
    for _ in 0..100 {
        let frame = service.alloc(pin, &FrameRequest::frame()).unwrap();
        let object = heap.try_alloc(layout).unwrap();
        // SAFETY: both were just allocated.
        unsafe {
            service.frames().free(pin, frame, Order::FRAME).unwrap();
            heap.free(object, layout).unwrap();
        }
    }
    let after = hits();
    after.0.zip(before.0).is_some_and(|(after, before)| after - before > 50) && after.1
}

#[test]
fn a_refused_offline_leaves_the_cpu_as_it_was() {
    let (sim, service) = booted();
    let space = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    sim.on(second(), |pin| {
        // SAFETY: the CPU is online, and this is no handler.
        unsafe { space.activate(pin) };
        assert!(is_served_locally(service, pin));
        let held = service.cpu_stats(pin.cpu()).magazine;
        // SAFETY: it is refused.
        let refused = unsafe { service.cpu_offline(pin) };
        assert_eq!(refused, Err(OfflineError::Shootdown(ShootdownRefuses::SpaceActive)));
        assert_eq!(service.cpu_stats(pin.cpu()).magazine, held);
        assert!(is_served_locally(service, pin));
        // SAFETY: as above.
        unsafe { service.kernel_space().unwrap().activate(pin) };
        // SAFETY: the CPU touches no address that the service maps.
        unsafe { service.cpu_offline(pin) }.unwrap();
        // SAFETY: it is refused.
        let again = unsafe { service.cpu_offline(pin) };
        assert_eq!(again, Err(OfflineError::Shootdown(ShootdownRefuses::NotOnline)));
        assert!(!is_served_locally(service, pin), "it is offline");
        // SAFETY: nobody else brings it up.
        unsafe { service.cpu_online(pin) }.unwrap();
        assert!(is_served_locally(service, pin));
    });
}

#[test]
fn a_refused_online_leaves_the_cpu_as_it_was() {
    let (sim, service) = booted();
    sim.on(second(), |pin| {
        assert!(is_served_locally(service, pin));
        let held = service.cpu_stats(pin.cpu()).magazine;
        // SAFETY: it is refused.
        let refused = unsafe { service.cpu_online(pin) };
        assert!(matches!(refused, Err(OnlineError::Shootdown(_))), "{refused:?}");
        assert_eq!(service.cpu_stats(pin.cpu()).magazine, held);
        assert!(is_served_locally(service, pin));
    });
}
