//! The service's state of each CPU, in memory of the CPU's own node.

use topomem_numa::frames::FrameRequest;
use topomem_percpu::{CpuPage, CpuPin, Order};
use topomem_shootdown::CpuState;

use crate::Machine;
use crate::page_table::Walking;
use crate::service::wake::TaskSlot;
use crate::service::{MemoryService, OnlineError};

/// The parts that three structures keep for a CPU, each on cache lines of its own.
struct CpuArea {
    shootdown: CpuState,
    task: TaskSlot,
    walking: Walking,
}

/// The pages that give two structures room for 512 CPUs.
struct Pages {
    task: CpuPage<TaskSlot>,
    walking: CpuPage<Walking>,
}

impl<P: Machine> MemoryService<P> {
    /// Gives the pinned CPU its area, a frame near the CPU, unless the CPU has an area. The CPU keeps the area when
    /// the CPU goes offline. CPUs numbered 64 and above share pages with the CPUs' pointers.
    ///
    /// # Errors
    ///
    /// [`OnlineError::OutOfMemory`], with nothing changed except that such a page may be there.
    pub(in crate::service) fn place_cpu(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        let cpu = pin.cpu();
        if self.shootdown.is_placed(cpu) {
            return Ok(());
        }
        if !self.task_wakers.has_room(cpu) {
            let _lock = self.extending.lock(&self.platform);
            if !self.task_wakers.has_room(cpu) {
                let pages = Pages { task: CpuPage::new(), walking: CpuPage::new() };
                let pages = self.place_for_good(pin, pages)?;
                // Under the lock nobody else has given room. The tasks' comes last: it is what is asked for above.
                let _ = self.walks.extend(cpu, &pages.walking);
                let _ = self.task_wakers.extend(cpu, &pages.task);
            }
        }
        let area = CpuArea { shootdown: CpuState::new(), task: TaskSlot::new(), walking: Walking::default() };
        let area = self.place_for_good(pin, area)?;
        // The CPU had no area, and brings itself online, so nothing is placed twice.
        self.walks.place(cpu, &area.walking);
        let _ = self.task_wakers.place(cpu, &area.task);
        let _ = self.shootdown.place(cpu, &area.shootdown);
        Ok(())
    }

    /// Places `value` in frames near the pinned CPU, which are never freed.
    fn place_for_good<T: Sync + 'static>(&self, pin: &CpuPin, value: T) -> Result<&'static T, OnlineError> {
        let order = const {
            match Order::for_bytes(size_of::<T>() as u64) {
                Some(order) => order,
                None => Order::GIANT,
            }
        };
        let run =
            self.frames.alloc(pin, &FrameRequest::order(order)).map_err(|_| OnlineError::OutOfMemory)?;
        let memory = self.platform.phys_to_virt(run.start_address()).cast::<T>();
        // SAFETY: the run is large and aligned enough, ours, and never freed.
        unsafe {
            memory.write(value);
            Ok(memory.as_ref())
        }
    }
}
