//! Boots the memory service on the simulated machine: the wiring that a kernel writes for itself.

use core::convert::Infallible;
use core::fmt;
use std::boxed::Box;
use std::thread;

use topomem_numa::{BootAllocError, BootAllocator, FirmwareTables, MapFull};
use topomem_percpu::{CpuId, CpuPin};
use topomem_shootdown::{PageRange, PageRangeError, PageSize, VirtAddr};

use super::Sim;
use crate::{BootError, FramesConfig, KernelHeap, KernelLayout, MemoryService, OnlineError, PerFrameTable};

/// The greatest number of CPUs that come online at the same time, on a thread each.
const TOGETHER: usize = 64;

/// The memory service of a simulated machine.
pub type SimService = MemoryService<&'static Sim>;

/// Why the service did not come up.
#[derive(Debug)]
#[non_exhaustive]
pub enum SimBootError {
    /// The machine has too many separate ranges.
    Map(MapFull),
    /// The window is no range: a defect of this module.
    Window(PageRangeError),
    /// The frame allocator could not be built.
    Frames(BootError<BootAllocError>),
    /// Another step failed.
    Step(BootError<Infallible>),
    /// A further CPU did not come online.
    Cpu(CpuId, OnlineError),
    /// The host refuses a thread.
    Host(std::io::Error),
}

impl fmt::Display for SimBootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SimBootError::Map(error) => error.fmt(f),
            SimBootError::Window(error) => error.fmt(f),
            SimBootError::Frames(error) => error.fmt(f),
            SimBootError::Step(error) => error.fmt(f),
            SimBootError::Cpu(cpu, error) => write!(f, "{cpu}: {error}"),
            SimBootError::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SimBootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(match self {
            SimBootError::Map(error) => error,
            SimBootError::Window(error) => error,
            SimBootError::Frames(error) => error,
            SimBootError::Step(error) => error,
            SimBootError::Cpu(_, error) => error,
            SimBootError::Host(error) => error,
        })
    }
}

impl Sim {
    /// Where the booted service's kernel space may map: 512 GiB of the upper half.
    pub const WINDOW: VirtAddr = VirtAddr::new_truncate(0xffff_c000_0000_0000);

    /// Boots a memory service on all CPUs, as firmware describes the machine.
    ///
    /// # Errors
    ///
    /// [`SimBootError`].
    pub fn boot_service(&'static self) -> Result<&'static SimService, SimBootError> {
        self.boot_service_with(&self.tables().as_firmware())
    }

    /// Boots a memory service on all CPUs, with firmware tables that need not be true.
    ///
    /// # Errors
    ///
    /// [`SimBootError`].
    pub fn boot_service_with(
        &'static self,
        tables: &FirmwareTables<'_>,
    ) -> Result<&'static SimService, SimBootError> {
        let (service, heap) = self.statics().map_err(SimBootError::Host)?;
        self.on_shootdown(move |pin| {
            service.on_shootdown_ipi(pin);
        });
        self.on_relax(move |pin| service.poll_shootdown(pin));
        self.on(CpuId::BOOT, |pin| {
            let mut map = self.memory_map().map_err(SimBootError::Map)?;
            let booting = service.boot().map_err(SimBootError::Step)?;
            let discovered = booting.discover_in(&mut map, tables, Sim::BOOT_APIC, &mut |_| {});
            let mut boot_memory = BootAllocator::new(&mut map, discovered.topology());
            let watermarks = self.blueprint().watermarks;
            let config =
                FramesConfig { watermarks, table: PerFrameTable::Present, ..FramesConfig::default() };
            let frames = discovered.frames(pin, &mut boot_memory, &config).map_err(SimBootError::Frames)?;
            let heap = frames.heap(pin, heap).map_err(SimBootError::Step)?;
            let window =
                PageRange::new(Sim::WINDOW, 512, PageSize::Size1GiB).map_err(SimBootError::Window)?;
            // SAFETY: nothing is inherited: the sim's code and data are the host's. The window is
            // the service's alone.
            unsafe { heap.kernel_space(pin, &KernelLayout { window, inherit: None }) }
                .map_err(SimBootError::Step)
        })?;
        let bring_up = |pin: &CpuPin| {
            if pin.cpu() == CpuId::BOOT {
                return Ok(());
            }
            // SAFETY: the CPU takes interrupts, this thread alone brings it up, and what it uses
            // besides the window is the host's.
            unsafe { service.cpu_online(pin) }.map_err(|error| SimBootError::Cpu(pin.cpu(), error))
        };
        // All at once, unless that were many threads.
        if self.cpus().len() <= TOGETHER {
            self.run(bring_up).into_iter().collect::<Result<(), SimBootError>>()?;
        } else {
            self.cpus().try_for_each(|cpu| self.on(cpu, bring_up))?;
        }
        Ok(service)
    }

    /// The service and the heap, as a kernel's `static`s. Their constructors run on a thread with
    /// room for them: unoptimised code builds them on its stack.
    fn statics(
        &'static self,
    ) -> Result<(&'static SimService, &'static KernelHeap<&'static Sim>), std::io::Error> {
        let build = move || {
            let service: &'static SimService = Box::leak(Box::new(MemoryService::new(self)));
            let heap: &'static KernelHeap<&'static Sim> = Box::leak(Box::new(KernelHeap::new(self, service)));
            (service, heap)
        };
        let thread = thread::Builder::new().stack_size(64 << 20).spawn(build)?;
        thread.join().map_err(|_| std::io::Error::other("building the service panicked"))
    }
}
