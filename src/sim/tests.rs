use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use topomem_percpu::{CpuId, CpuSet, PhysAddr, PhysFrame, Platform};
use topomem_shootdown::{Asid, PageRange, PageSize, RootLoad, Tlb, TlbFeatures, VirtAddr};

use super::*;
use crate::Machine;

const ROOT: u64 = 0x10_0000;
const PAGE: u64 = 0x11_0000;
const OTHER: u64 = 0x11_1000;
/// Present, writable.
const FLAGS: u64 = 3;

fn address() -> VirtAddr {
    VirtAddr::new_truncate(0xffff_c000_0000_0000)
}

fn word(sim: &Sim, address: u64) -> &AtomicU64 {
    sim.arena.word(PhysAddr::new(address)).unwrap()
}

/// Tables at `ROOT`, one frame each, that map `address()` to `PAGE`; `OTHER` holds 2.
fn mapped(cpus: usize, polls: u32) -> &'static Sim {
    mapped_on(Sim::builder().cpus(cpus).delay_interrupts(polls, 3))
}

fn mapped_on(builder: Builder) -> &'static Sim {
    let sim = builder.memory(4 << 20).build().unwrap();
    for level in [4u64, 3, 2] {
        let table = ROOT + (4 - level) * 0x1000;
        let index = address().as_u64() >> (3 + 9 * level) & 511;
        word(sim, table + index * 8).store((table + 0x1000) | FLAGS, Ordering::SeqCst);
    }
    set_leaf(sim, PAGE);
    word(sim, PAGE).store(1, Ordering::SeqCst);
    word(sim, OTHER).store(2, Ordering::SeqCst);
    sim
}

fn set_leaf(sim: &Sim, frame: u64) {
    word(sim, ROOT + 0x3000).store(frame | FLAGS, Ordering::SeqCst);
}

/// CPU 0 maps another frame and interrupts CPU 1; what CPU 1 reads after it has answered.
fn read_after_shootdown(polls: u32, handler: impl Fn(&'static Sim) + Send + Sync + 'static) -> u64 {
    let sim = mapped(2, polls);
    let answered: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    sim.on_shootdown(move |_| {
        handler(sim);
        answered.store(true, Ordering::SeqCst);
    });
    let read = sim.run(|pin| {
        sim.load_root(PhysFrame::containing_address(PhysAddr::new(ROOT)));
        assert_eq!(sim.load(address()), Ok(1));
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            set_leaf(sim, OTHER);
            sim.send_ipi(&CpuSet::of(CpuId::new(1).unwrap()));
        }
        while !answered.load(Ordering::SeqCst) {
            sim.relax();
        }
        sim.load(address()).unwrap()
    });
    assert_eq!(read[0], 1, "the sender did not flush its own");
    read[1]
}

#[test]
fn a_flush_in_the_handler_takes_effect() {
    assert_eq!(read_after_shootdown(0, |sim| sim.flush_page(address(), PageSize::Size4KiB)), 2);
    assert_eq!(read_after_shootdown(50, |sim| sim.flush_non_global()), 2);
}

#[test]
fn a_missing_flush_shows_every_time() {
    for _ in 0..20 {
        assert_eq!(read_after_shootdown(0, |_| {}), 1);
    }
}

#[test]
fn masked_interrupts_wait() {
    let sim = mapped(1, 0);
    let taken: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    sim.on_shootdown(move |_| {
        taken.fetch_add(1, Ordering::SeqCst);
    });
    sim.on(CpuId::BOOT, |pin| {
        sim.mask_interrupts();
        sim.mask_interrupts();
        sim.send_ipi(&CpuSet::of(pin.cpu()));
        sim.unmask_interrupts();
        sim.take_interrupts();
        assert_eq!(taken.load(Ordering::SeqCst), 0);
        sim.unmask_interrupts();
        assert_eq!(taken.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_masked_spinning_cpu_polls() {
    let sim = mapped(1, 0);
    let polled: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    sim.on_relax(move |_| {
        polled.fetch_add(1, Ordering::SeqCst);
    });
    sim.on(CpuId::BOOT, |_| {
        sim.relax();
        sim.mask_interrupts();
        sim.relax();
        sim.unmask_interrupts();
    });
    assert_eq!(polled.load(Ordering::SeqCst), 1);
}

#[test]
fn a_halted_cpu_answers() {
    let sim = mapped(2, 0);
    let answered: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    sim.on_shootdown(|_| answered.store(true, Ordering::SeqCst));
    sim.run(|pin| {
        if pin.cpu() != CpuId::BOOT {
            // The interrupt must end it: the test does not end before.
            sim.halt(Duration::from_secs(24 * 3600));
            return;
        }
        sim.send_ipi(&CpuSet::of(CpuId::new(1).unwrap()));
        while !answered.load(Ordering::SeqCst) {
            sim.relax();
        }
    });
}

#[test]
fn tagged_translations_outlive_a_switch() {
    let sim = mapped_on(Sim::builder().tlb(TlbFeatures::NONE.with_asids(2)));
    let [one, two] = [1, 2].map(|number| Asid::new(number).unwrap());
    let root = PhysFrame::containing_address(PhysAddr::new(ROOT));
    sim.on(CpuId::BOOT, |_| {
        sim.load_tagged_root(root, RootLoad::Flush(one));
        assert_eq!(sim.load(address()), Ok(1));
        set_leaf(sim, OTHER);
        sim.load_tagged_root(root, RootLoad::Flush(two));
        assert_eq!(sim.load(address()), Ok(2));
        sim.load_tagged_root(root, RootLoad::Keep(one));
        assert_eq!(sim.load(address()), Ok(1));
        sim.load_tagged_root(root, RootLoad::Flush(one));
        assert_eq!(sim.load(address()), Ok(2));
    });
}

#[test]
fn a_broadcast_arrives_once_it_is_waited_for() {
    let features = TlbFeatures::NONE.with_broadcast(NonZeroU16::MIN);
    let sim = mapped_on(Sim::builder().cpus(2).tlb(features));
    let page = PageRange::page(address(), PageSize::Size4KiB);
    sim.run(|pin| {
        sim.load_root(PhysFrame::containing_address(PhysAddr::new(ROOT)));
        assert_eq!(sim.load(address()), Ok(1));
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            set_leaf(sim, OTHER);
            sim.broadcast_pages(page);
        }
        sim.barrier();
        assert_eq!(sim.load(address()), Ok(1), "not even on the CPU that began it");
        sim.barrier();
        if pin.cpu() == CpuId::BOOT {
            sim.broadcast_sync();
            assert_eq!(sim.load(address()), Ok(2));
        } else {
            // It waits for its own alone.
            sim.broadcast_pages(page);
        }
        sim.barrier();
        assert_eq!(sim.load(address()), Ok(2));
    });
}

#[test]
fn a_cpu_that_is_off_loses_broadcasts_together() {
    let features = TlbFeatures::NONE.with_broadcast(NonZeroU16::MIN);
    let sim = mapped_on(Sim::builder().cpus(2).tlb(features));
    let elsewhere = VirtAddr::new_truncate(0x1000);
    sim.on(CpuId::new(1).unwrap(), |_| {
        sim.load_root(PhysFrame::containing_address(PhysAddr::new(ROOT)));
        assert_eq!(sim.load(address()), Ok(1));
    });
    set_leaf(sim, OTHER);
    sim.on(CpuId::BOOT, |_| {
        for _ in 0..300 {
            sim.broadcast_pages(PageRange::page(elsewhere, PageSize::Size4KiB));
            sim.broadcast_sync();
        }
    });
    sim.on(CpuId::new(1).unwrap(), |_| assert_eq!(sim.load(address()), Ok(2)));
}

#[test]
fn caches_outlive_a_run() {
    let sim = mapped(1, 0);
    sim.run(|_| {
        sim.load_root(PhysFrame::containing_address(PhysAddr::new(ROOT)));
        assert_eq!(sim.load(address()), Ok(1));
    });
    set_leaf(sim, OTHER);
    sim.run(|_| {
        assert_eq!(sim.load(address()), Ok(1));
        assert_eq!(sim.cached_translations(), 1);
        sim.load_root(PhysFrame::containing_address(PhysAddr::new(ROOT)));
        assert_eq!(sim.load(address()), Ok(2));
    });
}

#[test]
#[should_panic(expected = "cpu1 gives up")]
fn a_panicking_cpu_fails_the_run() {
    let sim = mapped(3, 0);
    sim.run(|pin| {
        assert_ne!(pin.cpu().index(), 1, "cpu1 gives up");
    });
}

#[test]
fn futures_run_to_their_end() {
    let sim = mapped(2, 0);
    let rounds = sim.run(|_| {
        let mut rounds = 0;
        let countdown = core::future::poll_fn(|context| {
            rounds += 1;
            if rounds == 5 {
                return core::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            core::task::Poll::Pending
        });
        sim.block_on(countdown, || {});
        rounds
    });
    assert_eq!(rounds, [5, 5]);
}

#[test]
#[should_panic(expected = "plays no CPU")]
fn a_thread_that_plays_no_cpu_is_told() {
    mapped(1, 0).current_cpu();
}
