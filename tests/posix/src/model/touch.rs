//! Accesses.

use super::content::{Bytes, Content};
use super::space::{Attributes, Backing, Page, Space};
use super::{Model, Mutation, STACK_GAP, STACK_PAGES};
use crate::compare::answer::Fault;
use crate::compare::rules::{StackGap, Support};
use crate::log::operation::{Access, OFFSETS, PAGE, Protection, Sample};

impl Model {
    /// Accesses a byte.
    pub(super) fn access(
        &mut self,
        address: u64,
        access: Access,
        seen: Option<Result<u8, Fault>>,
    ) -> Result<u8, Fault> {
        let number = address / PAGE;
        let sample = OFFSETS.iter().position(|&offset| offset == address % PAGE).unwrap_or(0);
        let sample = Sample(sample as u8);
        let is_mapped = self.space().pages.contains_key(&number);
        if !is_mapped && !self.is_own(number..number + 1) && seen == Some(Err(Fault::Unmapped)) {
            // A stack above would grow, but for what others have mapped below.
            return Err(Fault::Unmapped);
        }
        self.fault_in(number, access).map_err(|fault| {
            if access == Access::Execute && fault == Fault::Denied {
                self.fetch_fault(number, seen)
            } else {
                fault
            }
        })?;
        let byte = seen.and_then(Result::ok);
        match access {
            Access::Read => Ok(self.shown(number, |content| content.read(sample, byte))),
            Access::Execute => Ok(0),
            Access::Write(value) => {
                self.write(number, sample, value);
                Ok(0)
            }
        }
    }

    /// Returns the fault of a fetch that is not permitted.
    ///
    /// Linux on x86 looks at the page before it looks whether it may be executed, if any access is permitted. So
    /// it may report that the page is a guard or lies beyond the end.
    fn fetch_fault(&mut self, number: u64, seen: Option<Result<u8, Fault>>) -> Fault {
        let is_accessible = self.page(number).attributes.protection != Protection::NONE;
        match self.fault_of_page(number) {
            Err(fault) if is_accessible && seen == Some(Err(fault)) => fault,
            _ => Fault::Denied,
        }
    }

    /// Reads a page.
    pub(super) fn read_page(&mut self, address: u64, seen: Option<Bytes>) -> Result<Bytes, Fault> {
        self.fault_in(address / PAGE, Access::Read)?;
        Ok(self.shown(address / PAGE, |content| content.view(seen)))
    }

    /// Checks an access, and does what a fault does: grows a stack, copies a page that is to be written.
    pub(super) fn fault_in(&mut self, number: u64, access: Access) -> Result<(), Fault> {
        if !self.space().pages.contains_key(&number) {
            self.grow_stack(number)?;
        }
        let execute_only = self.rules.execute_only;
        let page = self.page(number);
        if !permits(page.attributes.protection, access, execute_only) {
            return Err(Fault::Denied);
        }
        self.fault_of_page(number)?;
        let is_snapshot = self.is(Mutation::PrivateMappingIsSnapshot);
        if matches!(access, Access::Write(_)) || is_snapshot {
            self.own(number);
        }
        Ok(())
    }

    /// Returns the fault of a permitted access.
    fn fault_of_page(&mut self, number: u64) -> Result<(), Fault> {
        let page = self.page(number);
        if page.guard {
            return Err(Fault::Unmapped);
        }
        if page.copy.is_none()
            && let Some(backing) = page.backing
            && self.objects[backing.object.0].page(backing.page).is_none()
        {
            return Err(if self.is(Mutation::BeyondEndIsDenied) { Fault::Denied } else { Fault::BeyondEnd });
        }
        Ok(())
    }

    /// Gives the process its own copy of a private page.
    pub(super) fn own(&mut self, number: u64) {
        let reaches_file = self.is(Mutation::PrivateWritesReachFile);
        let page = self.page(number);
        if page.attributes.shared || page.copy.is_some() || (reaches_file && page.backing.is_some()) {
            return;
        }
        let content = self.shown(number, |content| content.clone());
        self.page(number).copy = Some(content);
    }

    fn write(&mut self, number: u64, sample: Sample, value: u8) {
        self.shown(number, |content| content.write(sample, value));
        let page = self.page(number);
        if let Some(Backing { object, page }) = page.backing.filter(|_| page.copy.is_none())
            && self.is(Mutation::TailReachesFile)
        {
            let end = page * PAGE + sample.offset() + 1;
            let object = &mut self.objects[object.0];
            object.size = object.size.max(end);
        }
        if self.is(Mutation::ForkSharesPrivatePages) && !self.page(number).attributes.shared {
            let alike = self.spaces.iter_mut().flatten().filter_map(|space| space.pages.get_mut(&number));
            for page in alike.filter(|page| !page.attributes.shared) {
                page.copy.get_or_insert_with(Content::zero).write(sample, value);
            }
        }
    }

    /// Applies `look` to what the page shows.
    fn shown<T>(&mut self, number: u64, look: impl FnOnce(&mut Content) -> T) -> T {
        let page = self.spaces[self.current].as_mut().and_then(|space| space.pages.get_mut(&number));
        let backing = page.as_ref().and_then(|page| page.backing);
        if let Some(copy) = page.and_then(|page| page.copy.as_mut()) {
            return look(copy);
        }
        let object = backing.and_then(|backing| self.objects[backing.object.0].page(backing.page));
        look(object.unwrap_or(&mut Content::zero()))
    }

    /// Returns a mapped page.
    pub(super) fn page(&mut self, number: u64) -> &mut Page {
        match self.space().pages.get_mut(&number) {
            Some(page) => page,
            None => panic!("page {number:#x} is not mapped in the model"),
        }
    }

    /// Grows the stack above `number` down to it.
    pub(super) fn grow_stack(&mut self, number: u64) -> Result<(), Fault> {
        let into_gap = self.is(Mutation::StackGrowsIntoGap);
        let respects_all = self.is(Mutation::StackRespectsInaccessibleNeighbour);
        let all_pages = self.rules.stack_gap == StackGap::AllPages;
        let space = self.space();
        let Some((&bottom, stack)) = space.pages.range(number..).next() else { return Err(Fault::Unmapped) };
        let stack = stack.clone();
        let joins =
            |page: &Page, above: &Page| page.continues_in(above) || all_pages && above.attributes.grows_down;
        if !stack.attributes.grows_down || end_of_run(space, bottom, joins) - number > STACK_PAGES {
            return Err(Fault::Unmapped);
        }
        let below = space.pages.range(number.saturating_sub(STACK_GAP)..number).rev();
        let mut below = below.map(|(_, page)| page.attributes);
        let is_accessible = |page: Attributes| page.protection != Protection::NONE || respects_all;
        let is_too_near = if all_pages {
            below.any(is_accessible)
        } else {
            below.next().is_some_and(|page| is_accessible(page) && !page.grows_down)
        };
        if is_too_near && !into_gap {
            return Err(Fault::Unmapped);
        }
        for page in number..bottom {
            space.pages.insert(page, Page { copy: None, guard: false, ..stack.clone() });
        }
        Ok(())
    }
}

/// Returns the page after the mapping that begins at `bottom`, given which neighbours are one mapping.
fn end_of_run(space: &Space, bottom: u64, joins: impl Fn(&Page, &Page) -> bool) -> u64 {
    let mut last = bottom;
    while let (Some(page), Some(above)) = (space.pages.get(&last), space.pages.get(&(last + 1)))
        && joins(page, above)
    {
        last += 1;
    }
    last + 1
}

/// Tells whether a mapping permits an access.
pub(super) fn permits(protection: Protection, access: Access, execute_only: Support) -> bool {
    match access {
        // x86 has no pages that can be written and not read.
        Access::Read if execute_only == Support::Present => protection.0 & 3 != 0,
        Access::Read => protection != Protection::NONE,
        Access::Write(_) => protection.has(Protection::WRITE),
        Access::Execute => protection.has(Protection::EXECUTE),
    }
}
