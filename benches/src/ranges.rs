//! What `valgrind --tool=callgrind` counts of kernel ranges, on a simulated machine with one CPU: counting starts and
//! stops with [`counted`]. What is counted includes the simulated platform, a few instructions a call.

use std::alloc::Layout;
use std::error::Error;
use std::ptr::NonNull;

use topomem::ranges::{KernelRanges, RangeRequest, RangesConfig};
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, FrameRequest, Order, PageRange, PageSize, VirtAddr};

/// Bytes of a range, and of an object before it grows to twice as much.
const BYTES: usize = 4 << 20;

/// Bytes of the machine's memory.
const MEMORY: u64 = 256 << 20;

/// Ranges that a flush unmaps together.
const FLUSHED: usize = 8;

/// Turns before the count begins.
const WARM_UP: usize = 4;

type Failure = Box<dyn Error + Send + Sync>;
type Ranges = KernelRanges<&'static Sim>;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeCase {
    /// A range of `BYTES` allocated and freed; one flush for `FLUSHED` of them.
    Pair,
    /// The same on a machine without two consecutive free frames.
    Scattered,
    /// An object of `BYTES` that grows to twice as much elsewhere, by mapping its frames there; and the flush.
    Remapped,
    /// The same growth of a run of frames, which is copied.
    Copied,
}

impl RangeCase {
    /// How many operations a turn is.
    const fn operations(self) -> usize {
        match self {
            RangeCase::Pair | RangeCase::Scattered => FLUSHED,
            RangeCase::Remapped | RangeCase::Copied => 1,
        }
    }
}

/// The function that is counted, with all that it calls.
#[inline(never)]
pub fn counted(work: &mut dyn FnMut()) {
    work();
}

/// A machine with ranges, of which objects of the heap of `heap_from` bytes or more are some.
struct Machine {
    sim: &'static Sim,
    service: &'static SimService,
    ranges: &'static Ranges,
}

impl Machine {
    fn new(heap_from: u64) -> Result<Machine, Failure> {
        let sim = Sim::builder().nodes(1).cpus(1).memory(MEMORY).build()?;
        let service = sim.boot_service()?;
        let start = VirtAddr::new(Sim::WINDOW.as_u64() + (256 << 30))?;
        let config = RangesConfig::of(PageRange::new(start, 4, PageSize::Size1GiB)?).heap_from(heap_from);
        let ranges = sim.on(CpuId::BOOT, |pin| service.add_kernel_ranges(pin, &config))?;
        Ok(Machine { sim, service, ranges })
    }

    /// Leaves every second frame free, and no others.
    fn scatter(&self, pin: &CpuPin) -> Result<(), Failure> {
        let mut taken = Vec::new();
        while let Ok(frame) = self.service.frames().alloc(pin, &FrameRequest::frame()) {
            taken.push(frame);
        }
        for frame in taken {
            if (frame.start_address().as_u64() >> 12).is_multiple_of(2) {
                // SAFETY: allocated above as a single frame, and not used.
                unsafe { self.service.frames().free(pin, frame, Order::FRAME) }?;
            }
        }
        Ok(())
    }

    /// Allocates and frees ranges, and flushes.
    fn pairs(&self, pin: &CpuPin) -> Result<(), Failure> {
        for _ in 0..FLUSHED {
            drop(self.ranges.allocate(pin, &RangeRequest::bytes(BYTES as u64))?);
        }
        self.ranges.flush(pin);
        Ok(())
    }

    /// Lets an object grow that has a neighbour in its way; the growth is `grown`'s.
    fn growth(&self, pin: &CpuPin, grown: &mut dyn FnMut(&mut dyn FnMut())) -> Result<(), Failure> {
        let heap = self.service.heap().ok_or("the service has no heap")?.heap();
        let (old, new) = (layout(BYTES)?, layout(2 * BYTES)?);
        let mut objects: Vec<NonNull<u8>> = Vec::new();
        for _ in 0..4 {
            objects.push(heap.try_alloc(old)?);
        }
        objects.sort_unstable();
        // A guard's page may lie between, and what aligns the next range.
        let is_near = |pair: &[NonNull<u8>]| pair[1].addr().get() - pair[0].addr().get() <= 2 * BYTES;
        let index = objects.windows(2).position(is_near).ok_or("no two objects lie side by side")?;
        let mut moved = None;
        grown(&mut || {
            // SAFETY: allocated with this layout, and not used.
            moved = Some(unsafe { heap.try_realloc(objects[index], old, 2 * BYTES) });
            self.ranges.flush(pin);
        });
        let moved = moved.ok_or("nothing grew")??;
        if moved == objects[index] {
            return Err("the object grew where it was".into());
        }
        objects.remove(index);
        // SAFETY: allocated with these layouts, and not used.
        unsafe {
            heap.free(moved, new)?;
            objects.into_iter().try_for_each(|object| heap.free(object, old))?;
        }
        self.ranges.flush(pin);
        Ok(())
    }

    /// Does `case` once; the part that is to be counted is `part`'s to run.
    fn turn(&self, pin: &CpuPin, case: RangeCase, part: fn(&mut dyn FnMut())) -> Result<(), Failure> {
        match case {
            RangeCase::Pair | RangeCase::Scattered => {
                let mut outcome = Ok(());
                part(&mut || outcome = self.pairs(pin));
                outcome
            }
            RangeCase::Remapped | RangeCase::Copied => self.growth(pin, &mut |work| part(work)),
        }
    }
}

fn layout(bytes: usize) -> Result<Layout, Failure> {
    Ok(Layout::from_size_align(bytes, 8)?)
}

/// Does so many operations of `case` where they are counted.
///
/// # Errors
///
/// If the machine cannot be made, or does not do what is to be counted.
pub fn run(case: RangeCase, operations: usize) -> Result<(), Failure> {
    let heap_from = if case == RangeCase::Copied { 1 << 30 } else { BYTES as u64 };
    let machine = Machine::new(heap_from)?;
    machine.sim.on(CpuId::BOOT, |pin| {
        if case == RangeCase::Scattered {
            machine.scatter(pin)?;
        }
        (0..WARM_UP).try_for_each(|_| machine.turn(pin, case, |work| work()))?;
        (0..operations / case.operations()).try_for_each(|_| machine.turn(pin, case, counted))
    })
}
