use std::boxed::Box;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::vec::Vec;

use super::*;
use crate::MAX_CPUS;
use crate::cpu::NEAR_CPUS;

fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

fn pin(index: usize) -> CpuPin {
    // SAFETY: the test has one thread, which acts as every CPU in turn.
    unsafe { CpuPin::new(cpu(index)) }
}

#[test]
fn each_cpu_has_its_own_value() {
    static SLOTS: [Slot<Cell<u32>>; 3] =
        [Slot::new(Cell::new(1)), Slot::new(Cell::new(2)), Slot::new(Cell::new(3))];
    let local = CpuLocal::new();
    local.install(cpu(0), &SLOTS[0]).unwrap();
    local.install(cpu(1), &SLOTS[1]).unwrap();
    local.with(&pin(0), |value| value.set(value.get() + 10)).unwrap();
    assert_eq!(local.with(&pin(0), |value| value.get()), Ok(11));
    assert_eq!(local.with(&pin(1), |value| value.get()), Ok(2));
    assert_eq!(local.with(&pin(2), |value| value.get()), Err(Unavailable::NotInstalled));
    assert!(local.install(cpu(0), &SLOTS[2]).is_err());
}

#[test]
#[cfg_attr(miri, ignore = "all far CPUs share a page")]
fn a_far_cpu_has_a_value_of_its_own_in_a_page() {
    // One number behind a near CPU's in its page, and one that has the last place of a page.
    let numbers = [NEAR_CPUS, MAX_CPUS - 1];
    let local = CpuLocal::new();
    for (number, value) in (1..).zip(numbers) {
        let slot: &'static Slot<Cell<u32>> = Box::leak(Box::new(Slot::new(Cell::new(number))));
        assert!(!local.has_room(cpu(value)) && local.install(cpu(value), slot).is_err());
        let page = || -> &'static CpuPage<_> { Box::leak(Box::new(CpuPage::new())) };
        local.extend(cpu(value), page()).unwrap();
        assert!(local.extend(cpu(value), page()).is_err(), "there is room already");
        assert!(local.extend(cpu(0), page()).is_err(), "a near CPU needs none");
        assert_eq!(local.with(&pin(value), |value| value.get()), Err(Unavailable::NotInstalled));
        local.install(cpu(value), slot).unwrap();
    }
    for (number, value) in (1..).zip(numbers) {
        let nested = local.with(&pin(value), |it| (it.get(), local.with(&pin(value), |_| ())));
        assert_eq!(nested, Ok((number, Err(Unavailable::Busy))));
        assert_eq!(local.with_near(&pin(value), |_| ()), Err(Unavailable::NotInstalled));
    }
    assert_eq!(local.with(&pin(NEAR_CPUS - 1), |_| ()), Err(Unavailable::NotInstalled));
    assert_eq!(local.iter().map(|(cpu, _)| cpu.index()).collect::<Vec<_>>(), numbers);
    assert_eq!(local.page_count(), 2);
}

/// Under Miri, which reports a page or a slot that is found before the writes to it are visible.
#[test]
fn what_another_thread_gives_is_whole() {
    let far = NEAR_CPUS + 1;
    static LOCAL: CpuLocal<Cell<u32>> = CpuLocal::new();
    struct Boxes(NonNull<CpuPage<Slot<Cell<u32>>>>, [NonNull<Slot<Cell<u32>>>; 2]);
    // SAFETY: boxes may be freed on another thread.
    unsafe impl Send for Boxes {}
    let giver = std::thread::spawn(move || {
        let page = NonNull::from(Box::leak(Box::new(CpuPage::new())));
        // SAFETY: the page is freed at the end of the test.
        assert!(unsafe { LOCAL.extend_at(cpu(far), page) });
        let slots = [(far, 7), (1, 8)].map(|(number, value)| {
            let slot = NonNull::from(Box::leak(Box::new(Slot::new(Cell::new(value)))));
            // SAFETY: as above.
            assert!(unsafe { LOCAL.install_at(cpu(number), slot) });
            slot
        });
        Boxes(page, slots)
    });
    for (number, expected) in [(far, 7), (1, 8)] {
        let found = loop {
            match LOCAL.with(&pin(number), |value| value.get()) {
                Ok(value) => break value,
                Err(_) => std::thread::yield_now(),
            }
        };
        assert_eq!(found, expected);
    }
    let Boxes(page, slots) = giver.join().unwrap();
    // SAFETY: these were boxes, and nothing uses the cells any more.
    unsafe {
        drop(Box::from_raw(page.as_ptr()));
        slots.into_iter().for_each(|slot| drop(Box::from_raw(slot.as_ptr())));
    }
}

#[test]
fn a_slot_has_one_cpu() {
    static SHARED: Slot<Cell<u32>> = Slot::new(Cell::new(1));
    let (local, other) = (CpuLocal::new(), CpuLocal::new());
    local.install(cpu(0), &SHARED).unwrap();
    assert!(local.install(cpu(1), &SHARED).is_err());
    assert!(other.install(cpu(0), &SHARED).is_err());
}

#[test]
fn a_refused_slot_can_serve_elsewhere() {
    static SLOTS: [Slot<Cell<u32>>; 2] = [Slot::new(Cell::new(1)), Slot::new(Cell::new(2))];
    let local = CpuLocal::new();
    local.install(cpu(0), &SLOTS[0]).unwrap();
    assert!(local.install(cpu(0), &SLOTS[1]).is_err());
    assert!(local.install(cpu(1), &SLOTS[1]).is_ok());
}

#[test]
fn nested_use_is_refused() {
    static SLOT: Slot<Cell<u32>> = Slot::new(Cell::new(1));
    let local = CpuLocal::new();
    local.install(cpu(0), &SLOT).unwrap();
    let nested = local.with(&pin(0), |_| local.with(&pin(0), |value| value.get()));
    assert_eq!(nested, Ok(Err(Unavailable::Busy)));
    assert_eq!(local.with(&pin(0), |value| value.get()), Ok(1));
}

#[test]
fn a_panic_inside_leaves_the_value_usable() {
    static SLOT: Slot<Cell<u32>> = Slot::new(Cell::new(1));
    let local = CpuLocal::new();
    local.install(cpu(0), &SLOT).unwrap();
    let unwound = std::panic::catch_unwind(AssertUnwindSafe(|| local.with(&pin(0), |_| panic!("inside"))));
    assert!(unwound.is_err());
    assert_eq!(local.with(&pin(0), |value| value.get()), Ok(1));
}
