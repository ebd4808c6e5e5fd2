//! Removals of translations that one CPU begins on all of them: INVLPGB and TLBSYNC.
//!
//! A removal arrives as late as the processor may let it: at the first access after the CPU that
//! began it has waited for it. Only then is it certain on hardware, too.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use topomem_percpu::CpuId;
use topomem_shootdown::PageRange;

use super::tlb::Tlb;
use crate::sim::Sim;

/// What goes.
#[derive(Debug, Clone, Copy)]
pub(in crate::sim) enum Removal {
    /// The translations of these pages, whatever their ASID.
    Pages(PageRange),
    /// All.
    Everything,
}

impl Removal {
    fn apply(self, tlb: &mut Tlb) {
        match self {
            Removal::Pages(range) => range.iter().for_each(|page| tlb.flush_page_of_all(page.as_u64())),
            Removal::Everything => tlb.flush_all(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    from: CpuId,
    removal: Removal,
    /// Its CPU has waited for it.
    due: bool,
}

/// What others have begun to remove from a CPU's TLB.
///
/// The CPU holds the lock during each access, so that who waits for a removal waits for the
/// access that is under way, too.
#[derive(Debug, Default)]
pub(in crate::sim) struct Inbox {
    entries: Vec<Entry>,
}

impl Inbox {
    /// With more, a CPU that makes no access (it is off, say) loses everything instead.
    const MOST: usize = 256;

    fn make_due(&mut self, from: CpuId) {
        self.entries.iter_mut().filter(|entry| entry.from == from).for_each(|entry| entry.due = true);
        if self.entries.len() > Inbox::MOST {
            self.entries.retain(|entry| !entry.due);
            self.entries.push(Entry { from, removal: Removal::Everything, due: true });
        }
    }

    /// Removes from `tlb`, the owner's, what is due.
    pub(in crate::sim) fn settle(&mut self, tlb: &mut Tlb) {
        self.entries.retain(|entry| {
            if entry.due {
                entry.removal.apply(tlb);
            }
            !entry.due
        });
    }
}

impl Sim {
    /// Begins `removal` on every CPU.
    pub(in crate::sim) fn broadcast(&self, from: CpuId, removal: Removal) {
        for cpu in &self.cpus {
            lock(&cpu.inbox).entries.push(Entry { from, removal, due: false });
        }
    }

    /// Waits until what `from` began to remove is removed.
    pub(in crate::sim) fn settle_broadcasts(&self, from: CpuId) {
        for cpu in &self.cpus {
            lock(&cpu.inbox).make_due(from);
        }
    }

    /// The calling CPU's inbox, to be held for the time of an access; none where the machine has
    /// no broadcasts.
    pub(in crate::sim) fn inbox(&self, cpu: CpuId) -> Option<MutexGuard<'_, Inbox>> {
        self.blueprint.tlb.broadcast_pages()?;
        Some(lock(&self.cpus[cpu.index()].inbox))
    }
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}
