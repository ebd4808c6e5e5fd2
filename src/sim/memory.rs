//! Memory accesses by virtual address, as the calling CPU makes them.

use core::sync::atomic::{AtomicU64, Ordering};

use topomem_shootdown::VirtAddr;
use x86_64::PhysAddr;

use super::Sim;
use super::mmu::{Access, Fault, Privilege, translate, walk_ahead};

impl Sim {
    /// Reads the word at `address`, as the kernel.
    ///
    /// # Errors
    ///
    /// [`Fault`], what a page fault would report.
    pub fn load(&self, address: VirtAddr) -> Result<u64, Fault> {
        // Acquire and Release: x86 keeps loads in order among themselves, and stores too.
        Ok(self.access(address, Access::Read, Privilege::Kernel)?.load(Ordering::Acquire))
    }

    /// Writes the word at `address`, as the kernel.
    ///
    /// # Errors
    ///
    /// [`Fault`], what a page fault would report.
    pub fn store(&self, address: VirtAddr, value: u64) -> Result<(), Fault> {
        self.access(address, Access::Write, Privilege::Kernel)?.store(value, Ordering::Release);
        Ok(())
    }

    /// Would `access` go through, and if not, which fault would it raise? Touches nothing behind
    /// the translation.
    ///
    /// # Errors
    ///
    /// [`Fault`], what a page fault would report.
    pub fn probe(&self, address: VirtAddr, access: Access, privilege: Privilege) -> Result<(), Fault> {
        self.access(address, access, privilege).map(|_| ())
    }

    /// The word at `address`, for one access at once: no interrupt is taken before the caller
    /// asks for the next one, so the translation is used while it is valid, as by hardware.
    fn access(&self, address: VirtAddr, access: Access, privilege: Privilege) -> Result<&AtomicU64, Fault> {
        self.take_interrupts();
        let address = address.as_u64();
        if !address.is_multiple_of(8) {
            return Err(Fault::Misaligned(address));
        }
        let physical = self
            .state(|state| translate(&self.arena, &mut state.tlb, state.root, address, access, privilege))?;
        self.arena.word(physical).ok_or(Fault::BusError { address, physical })
    }

    /// Walks page tables ahead of the program, as processors may at any time: from all tables that
    /// the calling CPU has cached the way to, and from its root. It takes no interrupts, and marks
    /// the entries that it meets accessed: a table that is something else by now is corrupted.
    pub fn walk_ahead(&self) {
        self.state(|state| walk_ahead(&self.arena, &mut state.tlb, state.root));
    }

    /// The root of the page tables that the calling CPU uses.
    pub fn root(&self) -> Option<PhysAddr> {
        self.state(|state| state.root)
    }

    /// How many translations the calling CPU has cached.
    pub fn cached_translations(&self) -> usize {
        self.state(|state| state.tlb.len())
    }
}
