//! `madvise`.

use super::space::Origin;
use super::{Model, Mutation, pages};
use crate::answer::{Errno, Fault};
use crate::operation::{Access, Advice, PAGE, Protection};
use crate::rules::{Guards, Support};

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
        let stops_at_hole = matches!(advice, Advice::PopulateRead | Advice::PopulateWrite);
        let call = self.new_call();
        let has_hole = self.space().has_hole(range.clone());
        for (number, next) in self.space().mapped(range.clone()).into_iter().zip(range) {
            if stops_at_hole && number != next {
                break;
            }
            self.advise_page(number, advice, call)?;
        }
        if has_hole { Err(Errno::ENOMEM) } else { Ok(0) }
    }

    fn advise_page(&mut self, number: u64, advice: Advice, call: Origin) -> Result<(), Errno> {
        let mutation = self.mutation;
        let is = |wanted| mutation == Some(wanted);
        let guards = self.rules.guards;
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
            }
            Advice::Free => {
                check(is_anonymous && !locked)?;
                if let Some(copy) = &mut page.copy {
                    copy.may_clear_from(0);
                }
            }
            Advice::Remove => {
                check(!is_anonymous && !locked)?;
                if !page.attributes.shared || !page.attributes.may_write {
                    return Err(Errno::EACCES);
                }
                if let Some(backing) = page.backing {
                    self.objects[backing.object.0].punch(backing.page..backing.page + 1);
                }
            }
            Advice::DontFork | Advice::DoFork => {
                page.attributes.dont_fork = advice == Advice::DontFork;
                page.mapping = page.mapping.then(call);
            }
            Advice::WipeOnFork => {
                check(is_anonymous)?;
                page.attributes.wipe_on_fork = true;
                page.mapping = page.mapping.then(call);
            }
            Advice::KeepOnFork => {
                page.attributes.wipe_on_fork = false;
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
            Advice::PopulateRead | Advice::PopulateWrite => {
                let (needed, access) = match advice {
                    Advice::PopulateRead => (Protection::READ, Access::Read),
                    _ => (Protection::WRITE, Access::Write(0)),
                };
                check(page.attributes.protection.has(needed))?;
                match self.fault_in(number, access) {
                    Ok(()) => {}
                    Err(Fault::Denied) => return Err(Errno::EINVAL),
                    Err(_) => return Err(Errno::EFAULT),
                }
            }
            Advice::Unknown => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}
