//! Copies of ranges of memory from space to space, on a simulated machine.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use topomem::frames::FrameRequest;
use topomem::object::{MemoryObject, ObjectMapping};
use topomem::region::{
    Advice, CopyRangeError, HugePages, MapRequest, MmapError, Placement, Resolved, Sharing,
};
use topomem::sim::{Sim, SimService};
use topomem::{Access, CpuId, CpuPin, Order, PageSize, PendingWork, VirtAddr};

mod space_support;
use space_support::{Space, activate, allocated, at, touch, write_fault};

/// Where senders have their messages: across two lowest tables, and not at the beginning of one.
const MESSAGE: u64 = 0x10_0000 - 5;
/// Where receivers get them: at another place in their tables.
const PLACE: u64 = 0x20_0000 + 100;

fn booted(cpus: usize, megabytes: u64) -> (&'static Sim, &'static SimService) {
    let sim = Sim::builder().nodes(1).cpus(cpus).memory(megabytes << 20).build().unwrap();
    (sim, sim.boot_service().unwrap())
}

fn end(service: &'static SimService, pin: &CpuPin, space: Space) {
    // SAFETY: as above.
    unsafe { service.kernel_space().unwrap().activate(pin) };
    space.close().wait(pin);
    while service.run_pending_work(pin) != PendingWork::Done {}
}

fn request(pages: u64, page: u64) -> MapRequest {
    MapRequest::anonymous(pages << 12).placed(Placement::FixedNoReplace(at(page)))
}

/// What the pages from `first` on begin with.
fn contents(sim: &'static Sim, pin: &CpuPin, space: &Space, first: u64, count: u64) -> Vec<u64> {
    activate(space, pin);
    (first..first + count).map(|page| touch(sim, pin, space, page, None).unwrap()).collect()
}

/// A space with a message of `count` pages, each third of which was never touched, and one only read.
fn sender(sim: &'static Sim, service: &'static SimService, pin: &CpuPin, count: u64) -> Space {
    let space = service.create_space(pin).unwrap();
    space.mmap(pin, &request(count, MESSAGE)).unwrap();
    activate(&space, pin);
    touch(sim, pin, &space, MESSAGE, None).unwrap();
    for page in (MESSAGE..MESSAGE + count).filter(|page| page % 3 != MESSAGE % 3) {
        touch(sim, pin, &space, page, Some(page)).unwrap();
    }
    space
}

#[test]
fn each_space_writes_its_own_copy() {
    const COUNT: u64 = 1100;
    let (sim, service) = booted(1, 64);
    sim.on(CpuId::BOOT, |pin| {
        while service.run_pending_work(pin) != PendingWork::Done {}
        let before = allocated(service);
        let from = sender(sim, service, pin, COUNT);
        let to = service.create_space(pin).unwrap();
        let sent = contents(sim, pin, &from, MESSAGE, COUNT);
        let alone = allocated(service);
        assert_eq!(from.copy_range(pin, at(MESSAGE), &to, &request(COUNT, PLACE)), Ok(at(PLACE)));
        assert!(allocated(service) - alone < 16, "frames were copied");
        assert_eq!(to.mapped_pages(), COUNT - COUNT.div_ceil(3), "a page for each page that was written");
        activate(&from, pin);
        for page in (MESSAGE..MESSAGE + COUNT).step_by(2) {
            touch(sim, pin, &from, page, Some(1)).unwrap();
        }
        assert_eq!(contents(sim, pin, &to, PLACE, COUNT), sent, "the sender writes what it has sent");
        for page in (PLACE..PLACE + COUNT).step_by(5) {
            touch(sim, pin, &to, page, Some(2)).unwrap();
        }
        let now = contents(sim, pin, &from, MESSAGE, COUNT);
        let expected = (0..COUNT as usize).map(|index| if index % 2 == 0 { 1 } else { sent[index] });
        assert!(expected.eq(now), "the receiver writes the sender's memory");
        end(service, pin, from);
        for page in PLACE..PLACE + COUNT {
            let index = (page - PLACE) as usize;
            let expected = if index.is_multiple_of(5) { 2 } else { sent[index] };
            assert_eq!(
                contents(sim, pin, &to, page, 1),
                [expected],
                "the sender's end takes its message back"
            );
        }
        end(service, pin, to);
        assert_eq!(allocated(service), before);
    });
}

#[test]
fn a_message_that_its_sender_unmaps_has_moved() {
    let (sim, service) = booted(1, 32);
    sim.on(CpuId::BOOT, |pin| {
        let from = sender(sim, service, pin, 64);
        let to = service.create_space(pin).unwrap();
        let sent = contents(sim, pin, &from, MESSAGE, 64);
        let frames = |space: &Space, first| {
            let of = |page| Some(space.translate(pin, at(page))?.leaf.frame);
            (first..first + 64).map(of).collect::<Vec<_>>()
        };
        let mut had = frames(&from, MESSAGE);
        // The frame of zeros, which is not sent.
        had.iter_mut().step_by(3).for_each(|frame| *frame = None);
        let place = from.copy_range(pin, at(MESSAGE), &to, &MapRequest::anonymous(64 << 12)).unwrap();
        let place = place.as_u64() >> 12;
        from.munmap(pin, at(MESSAGE), 64 << 12).unwrap().wait(pin);
        assert_eq!(frames(&to, place), had);
        for page in (place..place + 64).filter(|page| !(page - place).is_multiple_of(3)) {
            assert_eq!(write_fault(&to, pin, page), Resolved::Reused);
        }
        assert_eq!(frames(&to, place), had);
        assert_eq!(contents(sim, pin, &to, place, 64), sent);
    });
}

#[test]
fn a_space_sends_to_itself_and_sends_on() {
    let (sim, service) = booted(1, 32);
    sim.on(CpuId::BOOT, |pin| {
        let space = sender(sim, service, pin, 32);
        let sent = contents(sim, pin, &space, MESSAGE, 32);
        let mut first = MESSAGE;
        for copy in 1..20 {
            let place = PLACE + copy * 1000;
            space.copy_range(pin, at(first), &space, &request(32, place)).unwrap();
            touch(sim, pin, &space, first + 1, Some(copy)).unwrap();
            first = place;
        }
        assert_eq!(contents(sim, pin, &space, first, 32), sent);
    });
}

#[test]
fn transparent_large_pages_are_cut() {
    let (sim, service) = booted(1, 64);
    sim.on(CpuId::BOOT, |pin| {
        let from = service.create_space(pin).unwrap();
        from.set_huge_pages(HugePages::Always);
        from.mmap(pin, &request(1024, 0x10_0000)).unwrap();
        assert!(matches!(write_fault(&from, pin, 0x10_0000), Resolved::ZeroedLarge(_)));
        activate(&from, pin);
        for page in 0x10_0000..0x10_0200 {
            touch(sim, pin, &from, page, Some(page)).unwrap();
        }
        let to = service.create_space(pin).unwrap();
        from.copy_range(pin, at(0x10_0003), &to, &request(700, PLACE)).unwrap();
        touch(sim, pin, &from, 0x10_0004, Some(0)).unwrap();
        let received = contents(sim, pin, &to, PLACE, 700);
        let expected = (0x10_0003..0x10_0003 + 700).map(|page| if page < 0x10_0200 { page } else { 0 });
        assert!(expected.eq(received));
        end(service, pin, from);
        end(service, pin, to);
    });
}

/// Says that a test is over when it ends, however that is.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A message that is written while it is sent: no write after the call is seen, by whichever CPU.
#[test]
fn what_was_received_is_stable() {
    const COUNT: u64 = 600;
    let (sim, service) = booted(2, 64);
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let from = sim.on(CpuId::BOOT, |pin| sender(sim, service, pin, COUNT));
    let to = sim.on(CpuId::BOOT, |pin| service.create_space(pin).unwrap());
    sim.run(|pin| {
        if pin.cpu() == CpuId::BOOT {
            let _over = Over(&over);
            activate(&to, pin);
            for _ in 0..30 {
                from.copy_range(pin, at(MESSAGE), &to, &request(COUNT, PLACE)).unwrap();
                let first = contents(sim, pin, &to, PLACE, COUNT);
                let writes = sent.load(Ordering::Relaxed);
                while sent.load(Ordering::Relaxed) < writes + COUNT {
                    sim.take_interrupts();
                }
                assert_eq!(contents(sim, pin, &to, PLACE, COUNT), first);
                to.munmap(pin, at(PLACE), COUNT << 12).unwrap().wait(pin);
            }
        } else {
            activate(&from, pin);
            while !over.load(Ordering::Relaxed) {
                let writes = sent.fetch_add(1, Ordering::Relaxed);
                touch(sim, pin, &from, MESSAGE + writes % COUNT, Some(writes)).unwrap();
                sim.take_interrupts();
            }
        }
        // SAFETY: the CPU is online, and this is no handler.
        unsafe { service.kernel_space().unwrap().activate(pin) };
    });
}

#[test]
fn what_cannot_be_sent_is_refused_and_leaves_nothing() {
    let (sim, service) = booted(1, 64);
    sim.on(CpuId::BOOT, |pin| {
        let from = sender(sim, service, pin, 16);
        let to = service.create_space(pin).unwrap();
        let refused = |page, request: &MapRequest| {
            let error = from.copy_range(pin, at(page), &to, request).unwrap_err();
            assert!(to.next_region(pin, at(0)).is_none(), "{error}");
            assert_eq!(to.mapped_pages(), 0, "{error}");
            error
        };
        assert_eq!(refused(MESSAGE, &request(17, PLACE)), CopyRangeError::NotMapped(at(MESSAGE + 16)));
        assert_eq!(refused(MESSAGE - 1, &request(4, PLACE)), CopyRangeError::NotMapped(at(MESSAGE - 1)));
        assert_eq!(refused(MESSAGE, &request(0, PLACE)), CopyRangeError::Map(MmapError::Empty));
        assert_eq!(refused(0xf_ffff_ffff, &request(4, PLACE)), CopyRangeError::OutsideSpace);
        let large = MapRequest::huge(2 << 20, PageSize::Size2MiB);
        let unsupported = MmapError::Unsupported(PageSize::Size2MiB);
        assert_eq!(refused(MESSAGE, &large), CopyRangeError::Map(unsupported));
        let odd = VirtAddr::new((MESSAGE << 12) + 8).unwrap();
        assert_eq!(from.copy_range(pin, odd, &to, &request(1, PLACE)), Err(CopyRangeError::Misaligned(odd)));
        from.mprotect(pin, at(MESSAGE + 3), 4096, Access::NONE).unwrap().wait(pin);
        assert_eq!(refused(MESSAGE, &request(8, PLACE)), CopyRangeError::NotReadable(at(MESSAGE + 3)));
        from.mprotect(pin, at(MESSAGE + 3), 4096, Access::WRITE).unwrap().wait(pin);
        from.madvise(pin, at(MESSAGE + 7), 4096, Advice::GuardInstall).unwrap().wait(pin);
        assert_eq!(refused(MESSAGE, &request(8, PLACE)), CopyRangeError::NotReadable(at(MESSAGE + 7)));
        let object = MemoryObject::anonymous(service, pin, 4096).unwrap();
        let mapping = ObjectMapping::new(&object, 0, Sharing::Private);
        let shown = from.mmap_object(pin, &MapRequest::anonymous(4096), mapping).unwrap();
        assert_eq!(refused(shown.as_u64() >> 12, &request(1, PLACE)), CopyRangeError::Object(shown));
        // A place that is taken.
        to.mmap(pin, &request(1, PLACE + 2)).unwrap();
        let taken = CopyRangeError::Map(MmapError::Occupied(at(PLACE + 2)));
        assert_eq!(from.copy_range(pin, at(MESSAGE), &to, &request(3, PLACE)), Err(taken));
        assert_eq!(contents(sim, pin, &from, MESSAGE + 1, 2), [MESSAGE + 1, MESSAGE + 2]);
    });
}

/// Memory that runs out at each allocation: the call says so, and nothing is lost.
#[test]
fn memory_runs_out_at_each_allocation() {
    let (sim, service) = booted(1, 16);
    sim.on(CpuId::BOOT, |pin| {
        while service.run_pending_work(pin) != PendingWork::Done {}
        let before = allocated(service);
        let mut refusals = 0;
        // Whole 2 MiB, for which tables are made when the first page is mapped.
        let place = 0x20_0000;
        for left in 0.. {
            let from = sender(sim, service, pin, 520);
            let to = service.create_space(pin).unwrap();
            let sent = contents(sim, pin, &from, MESSAGE, 520);
            let alloc = || service.frames().alloc(pin, &FrameRequest::frame()).ok();
            let mut taken: Vec<_> = std::iter::from_fn(alloc).collect();
            let kept = taken.split_off(taken.len() - left);
            let free = |frames: Vec<_>| {
                for frame in frames {
                    // SAFETY: it was allocated above.
                    unsafe { service.frames().free(pin, frame, Order::FRAME) }.unwrap();
                }
            };
            free(kept);
            let copied = from.copy_range(pin, at(MESSAGE), &to, &request(520, place));
            free(taken);
            assert_eq!(contents(sim, pin, &from, MESSAGE, 520), sent);
            match copied {
                Ok(_) => assert_eq!(contents(sim, pin, &to, place, 520), sent),
                Err(CopyRangeError::OutOfFrames(_) | CopyRangeError::Map(MmapError::OutOfFrames(_))) => {
                    refusals += 1;
                }
                Err(other) => panic!("{other}"),
            }
            end(service, pin, from);
            end(service, pin, to);
            assert_eq!(allocated(service), before, "with {left} frames left");
            if copied.is_ok() {
                break;
            }
        }
        assert!(refusals >= 4, "{refusals}");
    });
}
