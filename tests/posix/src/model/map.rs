//! `mmap`, `munmap`, `mprotect`, `brk`, `mlock` and the calls that only look.

use super::object::{Object, ObjectId};
use super::space::{Attributes, Backing, Page};
use super::{FIRST, Model, Mutation, SECOND, STACK_GAP, pages};
use crate::compare::answer::Errno;
use crate::compare::rules::Heap;
use crate::log::operation::{
    Access, Descriptor, Map, PAGE, Placement, Protection, Sharing, Source, SyncFlags, Vector,
};
use crate::log::slots::TOP;

impl Model {
    pub(super) fn map(&mut self, map: &Map<u64>, seen: Option<Result<u64, Errno>>) -> Result<u64, Errno> {
        if !map.offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if map.source == Source::File(Descriptor::Closed) {
            return Err(Errno::EBADF);
        }
        if map.length == 0 {
            return Err(Errno::EINVAL);
        }
        let length = map.length.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
        let count = length / PAGE;
        if length > TOP {
            return Err(Errno::ENOMEM);
        }
        if let Placement::Fixed(at) | Placement::Unoccupied(at) = map.placement {
            if at > TOP - length {
                return Err(Errno::ENOMEM);
            }
            if !at.is_multiple_of(PAGE) {
                return Err(Errno::EINVAL);
            }
        }
        if let Placement::Unoccupied(at) = map.placement
            && !self.space().is_free(at / PAGE..at / PAGE + count)
        {
            return Err(Errno::EEXIST);
        }
        let may_write = self.check_source(map, length)?;
        let first = match map.placement {
            Placement::Fixed(at) | Placement::Unoccupied(at) => at / PAGE,
            Placement::Hint(at) => self.by_hint(at / PAGE, count, seen)?,
            Placement::Anywhere => self.chosen(count, seen)?,
        };
        let object = match map.source {
            Source::File(file) => Some((object_of(file), map.offset / PAGE)),
            Source::Anonymous if map.sharing == Sharing::Private => None,
            Source::Anonymous => {
                self.objects.push(Object::new(length));
                Some((ObjectId(self.objects.len() - 1), 0))
            }
        };
        let attributes = Attributes {
            protection: map.protection,
            shared: map.sharing == Sharing::Shared,
            may_write,
            grows_down: map.grows_down,
            dont_fork: false,
            wipe_on_fork: false,
            locked: false,
        };
        let call = self.new_call();
        let keeps_bytes = self.is(Mutation::FixedKeepsOldBytes);
        for index in 0..count {
            let backing = object.map(|(object, first)| Backing { object, page: first + index });
            let old = self.space().pages.remove(&(first + index));
            let copy = old
                .filter(|old| keeps_bytes && backing.is_none() && old.backing.is_none())
                .and_then(|old| old.copy);
            let page = Page { attributes, backing, copy, guard: false, mapping: call };
            self.space().pages.insert(first + index, page);
        }
        if map.populate {
            self.populate(first..first + count);
        }
        Ok(first * PAGE)
    }

    /// Checks sharing and source. Returns whether the mapping may become writable.
    fn check_source(&self, map: &Map<u64>, length: u64) -> Result<bool, Errno> {
        let Source::File(file) = map.source else {
            return match map.sharing {
                Sharing::Neither => Err(Errno::EINVAL),
                Sharing::Shared if map.grows_down => Err(Errno::EINVAL),
                _ => Ok(true),
            };
        };
        if file == Descriptor::Pipe && self.is(Mutation::PipeIsNoFile) {
            return Err(Errno::EBADF);
        }
        let is_regular = !matches!(file, Descriptor::Pipe | Descriptor::Directory);
        let may_overflow = self.is(Mutation::OffsetMayOverflow);
        if is_regular
            && !may_overflow
            && map.offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(Errno::EOVERFLOW);
        }
        let (reads, writes) = match modes(file) {
            _ if self.is(Mutation::MapIgnoresDescriptor) => (true, true),
            modes => modes,
        };
        match map.sharing {
            Sharing::Neither => return Err(Errno::EINVAL),
            Sharing::Shared if map.protection.has(Protection::WRITE) && !writes => return Err(Errno::EACCES),
            _ if !reads => return Err(Errno::EACCES),
            _ => {}
        }
        if file == Descriptor::Pipe && map.protection.has(Protection::EXECUTE) {
            // No file of the pipes' file system may be executed.
            return Err(Errno::EPERM);
        }
        if !is_regular {
            return Err(Errno::ENODEV);
        }
        if map.grows_down {
            return Err(Errno::EINVAL);
        }
        Ok(map.sharing == Sharing::Private || writes)
    }

    /// Returns the hint's page if it is free, else what the system chose.
    fn by_hint(&mut self, hint: u64, count: u64, seen: Option<Result<u64, Errno>>) -> Result<u64, Errno> {
        let window = self.layout.window();
        let is_inside = window.start / PAGE <= hint && hint + count <= window.end / PAGE;
        // A stack keeps a gap, so the system may pass over a hint below one.
        let has_stack = self.space().pages.values().any(|page| page.attributes.grows_down);
        let is_free = self.space().is_free(hint..hint + count);
        if is_inside && is_free && !has_stack { Ok(hint) } else { self.chosen(count, seen) }
    }

    /// Faults pages in until one fails, as for writing if that makes a copy. Tells whether all went well.
    pub(super) fn populate(&mut self, pages: std::ops::Range<u64>) -> bool {
        if self.is(Mutation::PopulateCopiesNothing) {
            return true;
        }
        pages.into_iter().all(|number| {
            let attributes = self.page(number).attributes;
            let writes = attributes.protection.has(Protection::WRITE) && !attributes.shared;
            let access = if writes { Access::Write(0) } else { Access::Read };
            self.fault_in(number, access).is_ok()
        })
    }

    pub(super) fn unmap(&mut self, at: u64, length: u64) -> Result<u64, Errno> {
        let range = pages(at, length).filter(|range| range.end * PAGE <= TOP).ok_or(Errno::EINVAL)?;
        if range.is_empty() {
            return Err(Errno::EINVAL);
        }
        let left = u64::from(self.is(Mutation::UnmapLeavesLastPage) && range.end - range.start > 1);
        self.space().unmap(range.start..range.end - left);
        Ok(0)
    }

    pub(super) fn protect(&mut self, at: u64, length: u64, protection: Protection) -> Result<u64, Errno> {
        if !at.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if length == 0 {
            return Ok(0);
        }
        let range = pages(at, length).ok_or(Errno::ENOMEM)?;
        if protection.0 & !0xf != 0 {
            return Err(Errno::EINVAL);
        }
        let has_hole = self.space().has_hole(range.clone());
        if has_hole && self.is(Mutation::ProtectChecksHolesFirst) {
            return Err(Errno::ENOMEM);
        }
        let call = self.new_call();
        let goes_on = self.is(Mutation::ProtectGoesOnBeyondHole);
        let ignores_descriptor = self.is(Mutation::ProtectIgnoresDescriptor);
        for number in range {
            let Some(page) = self.space().pages.get_mut(&number) else {
                if goes_on {
                    continue;
                }
                return Err(Errno::ENOMEM);
            };
            if protection.has(Protection::WRITE) && !page.attributes.may_write && !ignores_descriptor {
                return Err(Errno::EACCES);
            }
            let old = std::mem::replace(&mut page.attributes.protection, protection);
            page.mapping = page.mapping.then(call);
            let attributes = page.attributes;
            let becomes_writable = protection.has(Protection::WRITE) && !old.has(Protection::WRITE);
            if attributes.locked && becomes_writable && !attributes.shared {
                self.populate(number..number + 1);
            }
        }
        if has_hole { Err(Errno::ENOMEM) } else { Ok(0) }
    }

    /// Sets the break if that is possible. Returns the break, as the distance from the heap's start.
    pub(super) fn set_break(&mut self, to: u64) -> Result<u64, Errno> {
        let start = self.layout.heap;
        let old = self.space().end_of_heap;
        let is_above = to >= start && to <= TOP;
        let (old_page, page) = (old.div_ceil(PAGE), to.div_ceil(PAGE));
        let is_plain = self.rules.heap == Heap::Plain;
        let gap = u64::from(!self.is(Mutation::BreakNeedsNoGap) && !is_plain);
        let keeps_bytes = self.is(Mutation::BreakKeepsBytes);
        let space = self.space();
        let may_move = is_above
            && if page > old_page {
                let above = space.pages.range(old_page..).next();
                above.is_none_or(|(&bottom, above)| {
                    let gap = if above.attributes.grows_down { gap * STACK_GAP } else { 0 } + gap;
                    page + gap <= bottom
                })
            } else {
                is_plain || page == old_page || !space.is_free(page..old_page)
            };
        if may_move {
            space.end_of_heap = to;
            if page < old_page && !keeps_bytes {
                space.unmap(page..old_page);
            }
            let call = self.new_call();
            for number in old_page..page {
                let attributes = Attributes {
                    protection: Protection::READ_WRITE,
                    shared: false,
                    may_write: true,
                    grows_down: false,
                    dont_fork: false,
                    wipe_on_fork: false,
                    locked: false,
                };
                let page = Page { attributes, backing: None, copy: None, guard: false, mapping: call };
                self.space().pages.insert(number, page);
            }
        }
        Ok(self.space().end_of_heap - start)
    }

    pub(super) fn sync(&mut self, at: u64, length: u64, flags: SyncFlags) -> Result<u64, Errno> {
        let has_both = flags.asynchronous && flags.synchronous && !self.is(Mutation::SyncTakesBothFlags);
        if !at.is_multiple_of(PAGE) || has_both {
            return Err(Errno::EINVAL);
        }
        let range = pages(at, length).ok_or(Errno::ENOMEM)?;
        let mapped = self.space().pages.range(range.clone());
        if flags.invalidate && mapped.into_iter().any(|(_, page)| page.attributes.locked) {
            return Err(Errno::EBUSY);
        }
        if self.space().has_hole(range) && !self.is(Mutation::SyncPassesOverHoles) {
            Err(Errno::ENOMEM)
        } else {
            Ok(0)
        }
    }

    pub(super) fn resident(&mut self, at: u64, length: u64, vector: Vector) -> Result<u64, Errno> {
        if !at.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let range = pages(at, length).filter(|range| range.end * PAGE <= TOP).ok_or(Errno::ENOMEM)?;
        let first_is_mapped = self.space().pages.contains_key(&range.start);
        let needs_vector = !self.is(Mutation::ResidentNeedsNoVector);
        if vector == Vector::Bad && !range.is_empty() && first_is_mapped && needs_vector {
            return Err(Errno::EFAULT);
        }
        if self.space().has_hole(range) && !self.is(Mutation::ResidentPassesOverHoles) {
            Err(Errno::ENOMEM)
        } else {
            Ok(0)
        }
    }

    pub(super) fn lock(&mut self, at: u64, length: u64, locked: bool) -> Result<u64, Errno> {
        let start = at - at % PAGE;
        let length = length.checked_add(at % PAGE).ok_or(Errno::EINVAL)?;
        let range = pages(start, length).ok_or(Errno::ENOMEM)?;
        let call = self.new_call();
        for number in range.clone() {
            let page = self.space().pages.get_mut(&number).ok_or(Errno::ENOMEM)?;
            page.attributes.locked = locked;
            page.mapping = page.mapping.then(call);
        }
        if locked && !self.populate(range) {
            return Err(Errno::ENOMEM);
        }
        Ok(0)
    }
}

/// Returns the file behind a descriptor.
pub(super) fn object_of(file: Descriptor) -> ObjectId {
    if file == Descriptor::Second { SECOND } else { FIRST }
}

/// Returns whether a descriptor permits reads, and writes.
pub(super) fn modes(file: Descriptor) -> (bool, bool) {
    match file {
        Descriptor::First | Descriptor::Second => (true, true),
        Descriptor::FirstReadOnly | Descriptor::Pipe | Descriptor::Directory => (true, false),
        Descriptor::FirstWriteOnly => (false, true),
        Descriptor::Closed => (false, false),
    }
}
