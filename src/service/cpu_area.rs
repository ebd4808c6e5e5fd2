//! The service's state of each CPU, in memory of the CPU's own node.

use topomem_numa::frames::FrameRequest;
use topomem_percpu::{CpuPin, Order};
use topomem_shootdown::CpuState;

use super::wake::TaskSlot;
use super::{MemoryService, OnlineError};
use crate::Machine;

/// The parts that two structures keep for a CPU, each on cache lines of its own.
struct CpuArea {
    shootdown: CpuState,
    task: TaskSlot,
}

impl CpuArea {
    /// The run that houses an area: one frame.
    const ORDER: Order = match Order::for_bytes(size_of::<CpuArea>() as u64) {
        Some(order) => order,
        None => Order::GIANT,
    };
}

impl<P: Machine> MemoryService<P> {
    /// Gives the pinned CPU its area, a frame near the CPU, unless the CPU has an area. The CPU keeps the area when
    /// the CPU goes offline.
    ///
    /// # Errors
    ///
    /// [`OnlineError::OutOfMemory`], with nothing changed.
    pub(super) fn place_cpu(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        if self.shootdown.is_placed(pin.cpu()) {
            return Ok(());
        }
        let run = self.frames.alloc(pin, &FrameRequest::order(CpuArea::ORDER));
        let run = run.map_err(|_| OnlineError::OutOfMemory)?;
        let memory = self.platform.phys_to_virt(run.start_address()).cast::<CpuArea>();
        let area = CpuArea { shootdown: CpuState::new(), task: TaskSlot::new() };
        // SAFETY: the run is large and aligned enough, ours, and never freed.
        let area: &'static CpuArea = unsafe {
            memory.write(area);
            memory.as_ref()
        };
        // The CPU had no area, and brings itself online, so nothing is placed twice.
        let _ = self.task_wakers.place(pin.cpu(), &area.task);
        let _ = self.shootdown.place(pin.cpu(), &area.shootdown);
        Ok(())
    }
}
