//! A machine that one scene after the other uses, and the frames that its CPUs take beside an operation.

use std::alloc::Layout;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use topomem::{FrameRequest, Order, PhysFrame, VirtAddr};
use topomem_stepper::masked;

use super::computer::{CPUS, Computer, PLACES, Service, on};

/// Machines whose last combination has passed.
static IDLE: Mutex<Vec<&'static Computer>> = Mutex::new(Vec::new());

pub(crate) struct Machine {
    pub(crate) computer: &'static Computer,
    pub(crate) service: &'static Service,
    /// Frames of another CPU's, in which nothing may be written.
    held: Mutex<Vec<PhysFrame>>,
    /// Frames that are allocated while no space but the kernel's exists.
    allocated: u64,
}

impl Machine {
    /// Takes an idle machine, or boots one whose CPUs use `places`. All scenes of a program use the same places.
    pub(crate) fn take(places: impl FnOnce() -> [VirtAddr; PLACES]) -> Machine {
        let idle = IDLE.lock().unwrap().pop();
        let computer = idle.unwrap_or_else(|| Computer::boot(places()));
        Machine { computer, service: computer.service(), held: Mutex::default(), allocated: 0 }
    }

    /// Notes how many frames are allocated now.
    pub(crate) fn note_allocated(&mut self) {
        self.allocated = self.service.frames().validate().unwrap().allocated;
    }

    /// Checks that as many frames are allocated as were noted.
    pub(crate) fn assert_allocated(&self) {
        let allocated = self.service.frames().validate().unwrap().allocated;
        assert_eq!(allocated, self.allocated, "frames are left over");
    }

    /// Uses all places as `cpu`, with whatever the CPU has cached, as far as they are mapped.
    pub(crate) fn access(&self, cpu: usize) {
        masked(|| {
            for (place, writes) in (0..PLACES).flat_map(|place| [(place, false), (place, true)]) {
                self.computer.access(cpu, place, writes);
            }
        });
    }

    /// Takes frames and objects as `cpu`, and gives them back.
    pub(crate) fn allocate(&self, cpu: usize) {
        on(cpu, |pin| {
            for order in [Order::FRAME, Order::FRAME, Order::HUGE] {
                let frame = self.service.alloc(pin, &FrameRequest::order(order)).unwrap();
                // SAFETY: it was allocated just now.
                unsafe { self.service.frames().free(pin, frame, order) }.unwrap();
            }
            let layout = Layout::new::<[u64; 12]>();
            let heap = self.service.heap().unwrap().heap();
            let object = heap.try_alloc(layout).unwrap();
            // SAFETY: as above.
            unsafe { heap.free(object, layout) }.unwrap();
        });
    }

    /// Takes a few frames as `cpu`, and marks them: until [`Machine::release`], nothing else may be written in them.
    pub(crate) fn hold(&self, cpu: usize) {
        let frames =
            [(); 6].map(|()| on(cpu, |pin| self.service.alloc(pin, &FrameRequest::frame())).unwrap());
        masked(|| {
            for frame in frames {
                self.words(frame).for_each(|word| word.store(u64::MAX, Relaxed));
                self.held.lock().unwrap().push(frame);
            }
        });
    }

    fn words(&self, frame: PhysFrame) -> impl Iterator<Item = &AtomicU64> {
        (0..512).map(move |index| self.computer.word(frame.start_address().as_u64() + index * 8))
    }

    /// Checks the marks of the held frames, and frees these frames.
    pub(crate) fn release(&self) {
        for frame in self.held.lock().unwrap().drain(..) {
            assert!(self.words(frame).all(|word| word.load(Relaxed) == u64::MAX), "{frame:?} is used twice");
            // SAFETY: it was allocated in `hold`.
            on(2, |pin| unsafe { self.service.frames().free(pin, frame, Order::FRAME) }).unwrap();
        }
    }

    /// Has each CPU return what it keeps of spaces that are gone.
    pub(crate) fn give_all_back(&self) {
        for cpu in (0..CPUS).chain(0..CPUS) {
            self.computer.deliver(cpu);
            on(cpu, |pin| {
                self.service.run_pending_work(pin);
                self.service.heap().unwrap().heap().reclaim(pin);
            });
        }
    }
}

impl Drop for Machine {
    /// Makes the machine idle. A machine on which something has failed is not used again.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            IDLE.lock().unwrap().push(self.computer);
        }
    }
}
