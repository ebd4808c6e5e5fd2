//! Memory accesses by virtual address, as the calling CPU makes them.

use core::sync::atomic::{AtomicU64, Ordering};

use topomem_percpu::{PhysAddr, Platform};
use topomem_shootdown::VirtAddr;

use super::{Access, Fault, Privilege, translate, walk_ahead};
use crate::sim::Sim;

impl Sim {
    /// Reads the word at `address`, as the kernel.
    ///
    /// # Errors
    ///
    /// [`Fault`], what a page fault would report.
    pub fn load(&self, address: VirtAddr) -> Result<u64, Fault> {
        // Acquire and Release: x86 keeps loads in order among themselves, and stores too.
        self.access(address, Access::Read, Privilege::Kernel, |word| word.load(Ordering::Acquire))
    }

    /// Writes the word at `address`, as the kernel.
    ///
    /// # Errors
    ///
    /// [`Fault`], what a page fault would report.
    pub fn store(&self, address: VirtAddr, value: u64) -> Result<(), Fault> {
        self.access(address, Access::Write, Privilege::Kernel, |word| word.store(value, Ordering::Release))
    }

    /// Would `access` go through, and if not, which fault would it raise? Touches nothing behind
    /// the translation.
    ///
    /// # Errors
    ///
    /// [`Fault`], what a page fault would report.
    pub fn probe(&self, address: VirtAddr, access: Access, privilege: Privilege) -> Result<(), Fault> {
        self.access(address, access, privilege, |_| ())
    }

    /// Makes one access to the word at `address`. No interrupt is taken meanwhile, and who waits
    /// for a broadcast waits for its end: the translation is used while it is valid, as by
    /// hardware.
    fn access<R>(
        &self,
        address: VirtAddr,
        access: Access,
        privilege: Privilege,
        with: impl FnOnce(&AtomicU64) -> R,
    ) -> Result<R, Fault> {
        self.take_interrupts();
        let address = address.as_u64();
        if !address.is_multiple_of(8) {
            return Err(Fault::Misaligned(address));
        }
        let mut inbox = self.inbox(self.current_cpu());
        let physical = self.state(|state| {
            if let Some(inbox) = &mut inbox {
                inbox.settle(&mut state.tlb);
            }
            translate(&self.arena, &mut state.tlb, state.root, address, access, privilege)
        })?;
        self.arena.word(physical).map(with).ok_or(Fault::BusError { address, physical })
    }

    /// Walks page tables ahead of the program, as processors may at any time: from all tables that
    /// the calling CPU has cached the way to, and from its root. It takes no interrupts, and marks
    /// the entries that it meets accessed: a table that is something else by now is corrupted.
    pub fn walk_ahead(&self) {
        // A walk, as an access, is waited for by who waits for a broadcast.
        let mut inbox = self.inbox(self.current_cpu());
        self.state(|state| {
            if let Some(inbox) = &mut inbox {
                inbox.settle(&mut state.tlb);
            }
            walk_ahead(&self.arena, &mut state.tlb, state.root);
        });
    }

    /// The root of the page tables that the calling CPU uses.
    pub fn root(&self) -> Option<PhysAddr> {
        self.state(|state| state.root)
    }

    /// How many translations the calling CPU has cached, of all ASIDs.
    pub fn cached_translations(&self) -> usize {
        self.state(|state| state.tlb.len())
    }
}
