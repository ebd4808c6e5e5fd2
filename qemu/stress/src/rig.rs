//! What the scenario needs of the machine beyond the memory service.

use core::future::Future;

use topomem::{Machine, MemoryService, VirtAddr};

use crate::{Record, Report};

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

    /// The start of 2 GiB of the kernel's address space that nobody else maps, on a 2 GiB boundary
    /// and far from large pages.
    fn kernel_window(&self) -> VirtAddr;

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
    fn be_deaf(&self, turn: impl FnMut() -> bool);

    /// The service's first report of a CPU that does not answer.
    fn reported(&self) -> Option<Report>;

    /// Passes a record on to whoever watches. Called from any CPU.
    fn report(&self, record: Record<'_>);
}
