//! `madvise`.

use std::ops::Range;

use super::space::{Backing, Origin};
use super::{Model, Mutation, pages};
use crate::compare::answer::{Errno, Fault};
use crate::compare::rules::{Guards, Support};
use crate::log::operation::{Access, Advice, PAGE, Protection};

impl Model {
    pub(super) fn advise(&mut self, at: u64, length: u64, advice: Advice) -> Result<u64, Errno> {
        let is_known = match advice {
            Advice::Unknown => false,
            Advice::HugePage | Advice::NoHugePage => self.rules.huge_advice == Support::Present,
            Advice::GuardInstall | Advice::GuardRemove => self.rules.guards != Guards::Unknown,
            _ => true,
        };
        if !is_known || !at.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let range = pages(at, length).ok_or(Errno::EINVAL)?;
        let call = self.new_call();
        if matches!(advice, Advice::PopulateRead | Advice::PopulateWrite) {
            return self.populate_as_advised(range, advice);
        }
        let has_hole = self.space().has_hole(range.clone());
        for number in self.space().mapped(range) {
            self.advise_page(number, advice, call)?;
        }
        if has_hole { Err(Errno::ENOMEM) } else { Ok(0) }
    }

    /// Faults pages in, up to the first that cannot be.
    fn populate_as_advised(&mut self, pages: Range<u64>, advice: Advice) -> Result<u64, Errno> {
        let (needed, access) = match advice {
            Advice::PopulateRead => (Protection::READ, Access::Read),
            _ => (Protection::WRITE, Access::Write(0)),
        };
        let grows_stacks = self.rules.populate_grows_stacks == Support::Present;
        for number in pages {
            let is_mapped = self.space().pages.contains_key(&number);
            if !(is_mapped || grows_stacks && self.grow_stack(number).is_ok()) {
                return Err(Errno::ENOMEM);
            }
            if !self.page(number).attributes.protection.has(needed) {
                return Err(Errno::EINVAL);
            }
            match self.fault_in(number, access) {
                Ok(()) => {}
                Err(Fault::Denied) => return Err(Errno::EINVAL),
                Err(_) => return Err(Errno::EFAULT),
            }
        }
        Ok(0)
    }

    fn advise_page(&mut self, number: u64, advice: Advice, call: Origin) -> Result<(), Errno> {
        let mutation = self.mutation;
        let is = |wanted| mutation == Some(wanted);
        let guards = self.rules.guards;
        let excludes = self.rules.one_inheritance == Support::Present;
        let page = self.page(number);
        let is_anonymous = page.is_anonymous_private();
        let locked = page.attributes.locked;
        let check = |allowed: bool| if allowed { Ok(()) } else { Err(Errno::EINVAL) };
        match advice {
            Advice::DontNeed | Advice::DontNeedLocked => {
                check(!locked || advice == Advice::DontNeedLocked || is(Mutation::LockedDontNeedIsAllowed))?;
                let keeps = if is_anonymous {
                    is(Mutation::AnonymousDontNeedKeepsBytes)
                } else {
                    is(Mutation::FileDontNeedKeepsBytes)
                };
                if !keeps {
                    page.copy = None;
                }
                if is(Mutation::GuardGoesWithDontNeed) {
                    page.guard = false;
                }
                if let Some(Backing { object, page: at }) = page.backing.filter(|_| page.attributes.shared)
                    && is(Mutation::SharedDontNeedDropsBytes)
                {
                    self.objects[object.0].punch(at..at + 1);
                }
            }
            Advice::Free => {
                check((is_anonymous || is(Mutation::FreeTakesSharedMemory)) && !locked)?;
                if let Some(copy) = &mut page.copy {
                    copy.may_clear_from(0);
                }
            }
            Advice::Remove => {
                check((!is_anonymous || is(Mutation::RemoveTakesPrivateMemory)) && !locked)?;
                let may_remove = page.attributes.shared && page.attributes.may_write;
                if !may_remove && !is(Mutation::RemoveNeedsNoPermission) {
                    return Err(Errno::EACCES);
                }
                if let Some(backing) = page.backing.filter(|_| !is(Mutation::RemoveKeepsBytes)) {
                    self.objects[backing.object.0].punch(backing.page..backing.page + 1);
                    if is(Mutation::RemoveDropsPrivateCopies) {
                        self.drop_copies(backing.object, backing.page..backing.page + 1);
                    }
                }
            }
            Advice::DontFork | Advice::DoFork => {
                page.attributes.dont_fork = advice == Advice::DontFork;
                page.attributes.wipe_on_fork &= !excludes;
                page.mapping = page.mapping.then(call);
            }
            Advice::WipeOnFork | Advice::KeepOnFork => {
                let takes = is_anonymous || is(Mutation::WipeOnForkTakesSharedMemory);
                check(takes || advice == Advice::KeepOnFork)?;
                page.attributes.wipe_on_fork = advice == Advice::WipeOnFork;
                page.attributes.dont_fork &= !excludes;
                page.mapping = page.mapping.then(call);
            }
            Advice::HugePage | Advice::NoHugePage => page.mapping = page.mapping.then(call),
            Advice::GuardInstall => {
                check(!locked && (is_anonymous || guards == Guards::All))?;
                page.guard = true;
                if !is(Mutation::GuardKeepsBytes) {
                    page.copy = None;
                }
            }
            Advice::GuardRemove => {
                check(is_anonymous || guards == Guards::All)?;
                page.guard = false;
            }
            Advice::PopulateRead | Advice::PopulateWrite | Advice::Unknown => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}
