//! Changes that are recorded at once and announced later, alone or in a batch; moved pages; and tickets
//! for what is pending.

use std::cell::{Cell, RefCell};

use topomem_shootdown::{Batch, ChangeRecord, Invalidation, Ticket};

use super::World;
use crate::machine::*;

/// Space, page and the version that replaced what a change removed.
pub(super) type Version = (usize, usize, u64);

/// What has been recorded, and what is still to be announced.
#[derive(Default)]
pub(super) struct Records {
    /// The lock of the page tables, held from a change to its record.
    locked: Cell<bool>,
    /// By the CPU that made it, oldest first.
    open: RefCell<Vec<(usize, ChangeRecord<'static>, Vec<Version>)>>,
    batch: RefCell<Option<Collected>>,
    /// The newest version of each page that its own domain's log has.
    recorded: RefCell<[[u64; PAGES]; SPACES]>,
    /// The former place of the frame that a page is mapped to, and what replaced it there.
    moved: RefCell<[[Option<Version>; PAGES]; SPACES]>,
}

struct Collected {
    cpu: usize,
    space: usize,
    batch: Batch<'static, Machine>,
    changed: Vec<Version>,
}

impl Records {
    pub(super) fn is_locked(&self) -> bool {
        self.locked.get()
    }
}

impl World {
    /// Changes page tables and records that, with the tables locked.
    pub(super) fn locked<T>(&self, change: impl FnOnce() -> T) -> T {
        assert!(!self.records.locked.replace(true));
        let result = change();
        self.records.locked.set(false);
        result
    }

    /// Changes a page of a space, and returns all that must be gone when that is complete: what the
    /// change replaced, and the former places of its frame.
    pub(super) fn replace(&self, space: usize, page: usize) -> Vec<Version> {
        let mut gone = vec![(space, page, self.queue.tlb().change(space, page))];
        gone.extend(self.records.moved.borrow_mut()[space][page].take());
        gone
    }

    /// `gone` has been recorded in the domains of its spaces.
    pub(super) fn note_recorded(&self, gone: &[Version]) {
        for &(space, page, version) in gone {
            let recorded = &mut self.records.recorded.borrow_mut()[space][page];
            *recorded = version.max(*recorded);
        }
    }

    fn change_pages(&self, space: usize, first: usize, len: usize) -> Vec<Version> {
        (first..first + len).flat_map(|page| self.replace(space, page)).collect()
    }

    /// Records a change, to be announced later. The first page's frame may go to another page.
    pub(super) fn record(&self, cpu: usize, space: usize, first: usize, len: usize, to: Option<usize>) {
        let invalidation = Invalidation::pages(range(space, first, len));
        let (gone, record) = self.locked(|| {
            let gone = self.change_pages(space, first, len);
            (gone, self.as_cpu(cpu, |_| self.queue.record(self.domains[space], invalidation)))
        });
        self.note_recorded(&gone);
        if let Some(to) = to.filter(|&to| !(first..first + len).contains(&to)) {
            self.records.moved.borrow_mut()[space][to] = gone.first().copied();
        }
        self.records.open.borrow_mut().push((cpu, record, gone));
    }

    /// Announces the oldest recorded change; false if there is none.
    pub(super) fn announce(&self) -> bool {
        let oldest = {
            let mut open = self.records.open.borrow_mut();
            (!open.is_empty()).then(|| open.remove(0))
        };
        let Some((cpu, record, gone)) = oldest else { return false };
        let ticket = self.as_cpu(cpu, |pin| self.queue.announce(&pin, record));
        self.expect(ticket, gone);
        true
    }

    /// Adds a change to the open batch, or opens one.
    pub(super) fn collect(&self, cpu: usize, space: usize, first: usize, len: usize) {
        let mut open = self.records.batch.borrow_mut();
        let collected = open.get_or_insert_with(|| Collected {
            cpu,
            space,
            batch: self.queue.batch(self.domains[space]),
            changed: Vec::new(),
        });
        let space = collected.space;
        let gone = self.locked(|| {
            let gone = self.change_pages(space, first, len);
            let invalidation = Invalidation::pages(range(space, first, len));
            self.as_cpu(collected.cpu, |_| collected.batch.record(invalidation));
            gone
        });
        self.note_recorded(&gone);
        collected.changed.extend(gone);
    }

    /// Issues the open batch, with a change in `first..first + len` that finds nothing.
    pub(super) fn issue_batch(&self, first: usize, len: usize) {
        let Some(mut collected) = self.records.batch.borrow_mut().take() else { return };
        let space = collected.space;
        collected.batch.wait_for_pending(range(space, first, len));
        collected.changed.extend(self.pending_versions(space, first, len));
        let ticket = self.as_cpu(collected.cpu, |pin| collected.batch.issue(&pin));
        self.expect(ticket, collected.changed);
    }

    /// Asks for what is pending in a range.
    pub(super) fn wait_for_pending(&self, cpu: usize, space: usize, first: usize, len: usize) {
        let gone = self.pending_versions(space, first, len);
        let range = range(space, first, len);
        let ticket = self.as_cpu(cpu, |pin| self.queue.pending_in(&pin, self.domains[space], range));
        self.expect(ticket, gone);
    }

    fn pending_versions(&self, space: usize, first: usize, len: usize) -> Vec<Version> {
        let recorded = self.records.recorded.borrow();
        (first..first + len).map(|page| (space, page, recorded[space][page])).collect()
    }

    fn expect(&self, ticket: Ticket<'static, Machine>, changed: Vec<Version>) {
        self.issued.borrow_mut().push(super::Issued { ticket, freed: None, changed });
    }
}
