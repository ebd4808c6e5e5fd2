//! What a stepped operation acts on: a space that three CPUs use, and a plain model of it.

use std::ops::Deref;
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use topomem::sim::Sim;
use topomem::{
    AddressSpace, CpuPin, FrameRequest, Order, PageRange, PageSize, Protection, Unmapped, Unmapping, VirtAddr,
};
use topomem_stepper::masked;

use super::computer::{CPUS, Computer, KERNEL, PLACES, PRESENT, WRITABLE, on};
use super::machine::Machine;

pub(crate) type Space = AddressSpace<&'static Computer>;

/// Pages of the space, by their number from its base; 512 to a directory entry.
const PAGES: [u64; PLACES - 1] =
    [0, 1, 2, 3, 512, 1023, 1024, 1536, 1537, 1538, 1539, 2048, 2560, 2561, 3072, 3584];

/// Places, by what is there.
pub(crate) const SMALL: [usize; 4] = [0, 1, 2, 3];
pub(crate) const LARGE: [usize; 2] = [4, 5];
/// Another CPU's changes.
pub(crate) const ELSEWHERE: [usize; 1] = [6];
pub(crate) const MOVED: [usize; 4] = [7, 8, 9, 10];
/// A change that is pending when an operation begins.
pub(crate) const PENDING: [usize; 1] = [11];
pub(crate) const NEW_SMALL: [usize; 2] = [12, 13];
pub(crate) const NEW_LARGE: [usize; 1] = [14];
const STAYS: [usize; 1] = [15];

pub(crate) fn small(first: u64, count: u64) -> PageRange {
    let start = VirtAddr::new(0x10_0000_0000 + first * 4096).unwrap();
    PageRange::new(start, count, PageSize::Size4KiB).unwrap()
}

pub(crate) fn large(entry: u64) -> PageRange {
    PageRange::page(small(entry * 512, 1).start(), PageSize::Size2MiB)
}

/// The pages at `places`, which follow each other.
pub(crate) fn at<const N: usize>(places: [usize; N]) -> PageRange {
    small(PAGES[places[0]], N as u64)
}

pub(crate) fn kernel_page() -> PageRange {
    PageRange::page(Sim::WINDOW, PageSize::Size4KiB)
}

/// Counts calls while none is allowed.
#[derive(Default)]
struct Alarm {
    armed: AtomicBool,
    calls: AtomicUsize,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.calls.fetch_add(usize::from(self.armed.load(Relaxed)), Relaxed);
    }
}

pub(crate) type Ticket<'s> = Unmapping<'s, &'static Computer>;
type Future = Pin<Box<Unmapped<'static, &'static Computer>>>;

pub(crate) struct Scene {
    machine: Machine,
    /// Null once an operation has dropped it.
    space: AtomicPtr<Space>,
    /// What each place translates to once all is done; 0 is nothing.
    expected: [AtomicU64; PLACES],
    pages: AtomicU64,
    tickets: Mutex<Vec<(Ticket<'static>, &'static [usize])>>,
    future: Mutex<Option<Future>>,
    alarm: Arc<Alarm>,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let machine = Machine::take(|| {
            let mut places = [Sim::WINDOW; PLACES];
            places.iter_mut().zip(PAGES).for_each(|(place, page)| *place = small(page, 1).start());
            places
        });
        let mut scene = Scene {
            machine,
            space: AtomicPtr::default(),
            expected: Default::default(),
            pages: AtomicU64::new(0),
            tickets: Mutex::default(),
            future: Mutex::default(),
            alarm: Arc::default(),
        };
        // The service and its heap keep some of what they make first.
        scene.fill();
        (0..CPUS).for_each(|cpu| scene.allocate(cpu));
        scene.end();
        scene.machine.note_allocated();
        scene
    }

    pub(crate) fn space(&self) -> &'static Space {
        // SAFETY: it was made from a `Box` that stays, and is read by `drop_space` only.
        unsafe { self.space.load(Relaxed).as_ref() }.unwrap()
    }

    pub(crate) fn has_space(&self) -> bool {
        !self.space.load(Relaxed).is_null()
    }

    /// Drops the space, of which no ticket is left.
    pub(crate) fn drop_space(&self) {
        let space = self.space.swap(ptr::null_mut(), Relaxed);
        if !space.is_null() {
            // SAFETY: nobody else gets at it any more, and it is dropped once.
            unsafe { space.drop_in_place() };
        }
    }

    fn kernel(&self) -> Space {
        self.service.kernel_space().unwrap()
    }

    pub(crate) fn enter(&self, cpu: usize) {
        // SAFETY: the CPU is online, and no call of the service is interrupted on it.
        on(cpu, |pin| _ = unsafe { self.space().activate(pin) });
    }

    pub(crate) fn leave(&self, cpu: usize) {
        // SAFETY: as in `enter`.
        on(cpu, |pin| _ = unsafe { self.kernel().activate(pin) });
    }

    /// Makes a space with something at each place, which all CPUs have active and have used.
    pub(crate) fn fill(&self) {
        on(0, |pin| {
            let space = Box::new(self.service.create_space(pin).unwrap());
            self.space.store(Box::into_raw(space), Relaxed);
            self.map(pin, at(SMALL));
            self.map(pin, large(1));
            self.map(pin, at(PENDING));
            self.map(pin, at(STAYS));
            let request = FrameRequest::frame();
            self.kernel().map(pin, kernel_page(), request, Protection::KERNEL_DATA).unwrap();
        });
        (0..CPUS).for_each(|cpu| self.enter(cpu));
        for places in [&SMALL[..], &LARGE, &PENDING, &STAYS, &[KERNEL]] {
            self.expect_found(places);
        }
        self.expect_none(&[6, 7, 8, 9, 10, 12, 13, 14]);
        self.pages.store(4 + 512 + 2, Relaxed);
        (0..CPUS).for_each(|cpu| self.access(cpu));
    }

    /// The same, and a change of CPU 1's is pending that a future and CPU 0's task wait for.
    pub(crate) fn fill_pending(&self) {
        self.fill();
        let waker = Waker::from(self.alarm.clone());
        let mut context = Context::from_waker(&waker);
        for cpu in 0..2 {
            on(cpu, |pin| {
                let mut task = std::pin::pin!(self.service.task(pin.cpu()));
                assert!(std::future::Future::poll(task.as_mut(), &mut context).is_pending());
            });
        }
        let mut future = Box::pin(on(1, |pin| self.space().unmap(pin, at(PENDING))).unwrap().into_future());
        assert!(on(1, |_| std::future::Future::poll(future.as_mut(), &mut context)).is_pending());
        self.expect_none(&PENDING);
        self.count_pages(-1);
        *self.future.lock().unwrap() = Some(future);
    }

    pub(crate) fn map(&self, pin: &CpuPin, range: PageRange) {
        let order = if range.size() == PageSize::Size4KiB { Order::FRAME } else { Order::HUGE };
        self.space().map(pin, range, FrameRequest::order(order), Protection::USER_DATA).unwrap();
    }

    pub(crate) fn count_pages(&self, change: i64) {
        self.pages.fetch_add(change as u64, Relaxed);
    }

    /// From here on `places` are what they are in the page tables now: all are mapped.
    pub(crate) fn expect_found(&self, places: &[usize]) {
        masked(|| {
            for &place in places {
                // CPU 2 never leaves the space.
                let found = self.computer.walk(2, place);
                assert!(found & PRESENT != 0, "place {place} is not mapped");
                self.expected[place].store(found, Relaxed);
            }
        });
    }

    pub(crate) fn expect_none(&self, places: &[usize]) {
        places.iter().for_each(|&place| self.expected[place].store(0, Relaxed));
    }

    pub(crate) fn expect_read_only(&self, places: &[usize]) {
        places.iter().for_each(|&place| _ = self.expected[place].fetch_and(!WRITABLE, Relaxed));
    }

    pub(crate) fn expect_moved(&self, from: &[usize], to: &[usize]) {
        for (&from, &to) in from.iter().zip(to) {
            let moved = self.expected[from].swap(0, Relaxed);
            self.expected[to].store(moved, Relaxed);
        }
    }

    /// A change of `places` is complete: no CPU can use what they were.
    pub(crate) fn assert_complete(&self, places: &[usize]) {
        masked(|| {
            for (cpu, &place) in (0..CPUS).flat_map(|cpu| places.iter().map(move |place| (cpu, place))) {
                let (cached, expected) =
                    (self.computer.cached(cpu, place), self.expected[place].load(Relaxed));
                assert!(
                    cached == 0 || cached == expected,
                    "cpu{cpu} has {cached:#x} for place {place}, {expected:#x} is complete"
                );
            }
        });
    }

    /// Keeps the ticket of a change of `places`, and looks whether it is complete.
    pub(crate) fn keep(&self, ticket: Ticket<'static>, places: &'static [usize]) {
        masked(|| self.tickets.lock().unwrap().push((ticket, places)));
        self.look();
    }

    pub(crate) fn look(&self) {
        masked(|| {
            for (ticket, places) in self.tickets.lock().unwrap().iter_mut() {
                if ticket.is_complete() {
                    self.assert_complete(places);
                }
            }
        });
    }

    /// Runs what must not call wakers.
    pub(crate) fn quietly(&self, act: impl FnOnce()) {
        self.alarm.armed.store(true, Relaxed);
        act();
        self.alarm.armed.store(false, Relaxed);
    }

    /// Runs what may call wakers, also where something else must not.
    pub(crate) fn aloud(&self, act: impl FnOnce()) {
        let armed = self.alarm.armed.swap(false, Relaxed);
        act();
        self.alarm.armed.store(armed, Relaxed);
    }

    /// All interrupts arrive and all tickets complete: everything is as the model says. Then the
    /// space goes, and with it all that it had.
    pub(crate) fn settle(&self) {
        self.end();
        self.machine.assert_allocated();
    }

    fn end(&self) {
        self.look();
        (0..2 * CPUS).for_each(|cpu| self.computer.deliver(cpu % CPUS));
        on(1, |_| {
            let mut context = Context::from_waker(Waker::noop());
            if let Some(mut future) = self.future.lock().unwrap().take() {
                assert!(std::future::Future::poll(future.as_mut(), &mut context).is_ready());
            }
        });
        for (mut ticket, places) in self.tickets.lock().unwrap().drain(..) {
            assert!(ticket.is_complete(), "all have answered");
            self.assert_complete(places);
            on(0, |pin| ticket.wait(pin));
        }
        self.compare();
        assert_eq!(self.alarm.calls.load(Relaxed), 0, "wakers are called where none may be");
        (0..CPUS).for_each(|cpu| self.leave(cpu));
        self.drop_space();
        on(0, |pin| self.kernel().unmap(pin, kernel_page()).unwrap().wait(pin));
        self.give_all_back();
    }

    /// Compares all CPUs' translations and the space's counts with the model.
    fn compare(&self) {
        for (cpu, place) in (0..CPUS).flat_map(|cpu| (0..PLACES).map(move |place| (cpu, place))) {
            self.assert_complete(&[place]);
            let expected = self.expected[place].load(Relaxed);
            assert_eq!(self.computer.walk(cpu, place), expected, "place {place}");
            let reads = self.computer.access(cpu, place, false);
            assert_eq!(reads.is_some(), expected & PRESENT != 0, "cpu{cpu}, place {place}");
            let writes = self.computer.access(cpu, place, true);
            assert_eq!(writes.is_some(), expected & WRITABLE != 0, "cpu{cpu}, place {place}");
        }
        if self.has_space() {
            assert_eq!(self.space().mapped_pages(), self.pages.load(Relaxed));
            for (place, page) in PAGES.into_iter().enumerate() {
                let found = on(0, |pin| self.space().translate(pin, small(page, 1).start()));
                let found = found.map_or(0, |found| found.address.as_u64());
                assert_eq!(found, self.expected[place].load(Relaxed) & !0xfff, "place {place}");
            }
        }
    }
}

impl Deref for Scene {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}
