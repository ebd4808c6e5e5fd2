//! What the scenario needs of the machine beyond the memory service.

use core::future::Future;

use topomem::{Machine, MemoryService, PageRange, VirtAddr};

use crate::{Record, Report};

/// Addresses that nobody else maps.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Where 2 GiB begin, on a 2 GiB boundary and far from large pages.
    pub base: VirtAddr,
    /// Those and so much more that unmapping it leaves no table behind.
    pub whole: PageRange,
}

/// The machine that a run drives: the reference kernel, or the simulator.
pub trait Rig: Send + Sync {
    /// The service's platform.
    type Machine: Machine;

    /// The service under test.
    fn service(&self) -> &'static MemoryService<Self::Machine>;

    /// How many CPUs take part: all of those numbered below.
    fn cpus(&self) -> usize;

    /// Milliseconds since some start, the same on all CPUs.
    fn milliseconds(&self) -> u64;

    /// Where to map in the kernel's address space.
    fn kernel_window(&self) -> Option<Window>;

    /// Where to map in user spaces.
    fn user_window(&self) -> Option<Window>;

    /// What this CPU reads at `address`, a multiple of 8; `None` if it faults. One load, not
    /// reordered with what comes before and after, that uses the TLB as it is.
    fn load(&self, address: VirtAddr) -> Option<u64>;

    /// Writes `value` at `address`, a multiple of 8; `None` if it faults. One store, as
    /// [`Rig::load`].
    fn store(&self, address: VirtAddr, value: u64) -> Option<()>;

    /// Lets this CPU idle for about `milliseconds`, if it has nothing else to do.
    fn rest(&self, milliseconds: u32) -> impl Future<Output = ()> + Send;

    /// Keeps this CPU, which is offline in the service, from everything but interrupts for about
    /// `milliseconds`: nothing else runs on it.
    fn park(&self, milliseconds: u32);

    /// With interrupts masked, and answering no shootdown, calls `turn` until it says that it is
    /// enough.
    fn ignore_shootdowns(&self, turn: impl FnMut() -> bool);

    /// The service's first report of a CPU that does not answer.
    fn reported(&self) -> Option<Report>;

    /// Passes a record on to whoever watches. Called from any CPU.
    fn report(&self, record: Record<'_>);
}
