//! `mremap`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::space::{Backing, Page};
use super::{Model, Mutation};
use crate::compare::answer::Errno;
use crate::compare::rules::{Moves, RemapChecks, Support};
use crate::log::operation::{PAGE, RemapFlags};
use crate::log::slots::TOP;

impl Model {
    pub(super) fn remap(
        &mut self,
        at: u64,
        old: u64,
        new: u64,
        flags: RemapFlags,
        to: Option<u64>,
        seen: Option<Result<u64, Errno>>,
    ) -> Result<u64, Errno> {
        if flags.unknown || !at.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let old = old.checked_next_multiple_of(PAGE).unwrap_or(0);
        let new = new.checked_next_multiple_of(PAGE).unwrap_or(0);
        if new == 0
            || flags.keep_source && old != new
            || (to.is_some() || flags.keep_source) && !flags.may_move
        {
            return Err(Errno::EINVAL);
        }
        if self.rules.remap_checks == RemapChecks::SourceFirst {
            if !self.space().pages.contains_key(&(at / PAGE)) {
                return Err(Errno::EFAULT);
            }
            if new > TOP && to.is_none() {
                // Which error comes first depends on how much memory the host has.
                return Err(seen.and_then(Result::err).unwrap_or(Errno::ENOMEM));
            }
        }
        if new > TOP {
            return Err(Errno::EINVAL);
        }
        if to.is_some() || flags.keep_source {
            let target = to.unwrap_or(0);
            let overlaps = target < at.saturating_add(old) && at < target.saturating_add(new);
            if target > TOP - new || !target.is_multiple_of(PAGE) || overlaps {
                return Err(Errno::EINVAL);
            }
        }
        let source = at / PAGE..at.saturating_add(old) / PAGE;
        let count = new / PAGE;
        let Some(first) = self.space().pages.get(&source.start).cloned() else { return Err(Errno::EFAULT) };
        match to {
            Some(to) if old == new && self.rules.moves == Moves::Several => {
                return self.move_to(source, to / PAGE, flags.keep_source);
            }
            None if old == new && !flags.keep_source => return Ok(at),
            None if old > new => {
                self.space().unmap(source.start + count..source.end);
                return Ok(at);
            }
            _ => {}
        }
        if old == 0 && !first.attributes.shared && !self.is(Mutation::DuplicateOfPrivateMemory) {
            return Err(Errno::EINVAL);
        }
        if old == 0 && !flags.may_move && self.is(Mutation::DuplicateInPlaceIsInvalid) {
            return Err(Errno::EINVAL);
        }
        let kept = source.start..source.start + (source.end - source.start).min(count);
        let unmaps_first = self.rules.moves == Moves::OneMapping;
        if let Some(to) = to.filter(|_| unmaps_first) {
            self.space().unmap(to / PAGE..to / PAGE + count);
        }
        if !self.is_one_mapping(kept.clone(), seen == Some(Err(Errno::EFAULT))) {
            if unmaps_first && to.is_some() {
                self.space().unmap(kept.end..source.end);
            }
            return Err(Errno::EFAULT);
        }
        if let Some(to) = to {
            self.space().unmap(to / PAGE..to / PAGE + count);
            self.space().unmap(kept.end..source.end);
            // With an old length of 0, the source may lie where the target was.
            if !self.space().pages.contains_key(&kept.start) {
                return Err(Errno::EFAULT);
            }
            self.move_grown(kept, to / PAGE, count, flags.keep_source);
            return Ok(to);
        }
        let end = source.start + count;
        let may_grow = old != 0 && !flags.keep_source && self.space().is_free(kept.end..end);
        let stays = match seen {
            // Outside of the window others may have mapped something behind.
            Some(seen) if may_grow && !self.is_own(kept.end..end) => seen == Ok(at),
            _ => may_grow,
        };
        if stays {
            self.append(kept, end);
            return Ok(at);
        }
        if !flags.may_move {
            return Err(Errno::ENOMEM);
        }
        let to = self.chosen(count, seen)?;
        self.move_grown(kept, to, count, flags.keep_source);
        Ok(to * PAGE)
    }

    /// Tells whether only the log maps anything in `pages`.
    pub(super) fn is_own(&self, pages: Range<u64>) -> bool {
        let contains = |range: Range<u64>| range.start <= pages.start * PAGE && pages.end * PAGE <= range.end;
        contains(self.layout.window()) || contains(self.layout.heap())
    }

    /// Tells whether `pages` are one mapping. Where that is up to the system, `refused` says what it thinks.
    fn is_one_mapping(&mut self, pages: Range<u64>, refused: bool) -> bool {
        let guards_split = self.rules.remap_with_guards == Support::Absent;
        let mut is_certain = true;
        for number in pages.start..pages.end.saturating_sub(1) {
            let space = self.space();
            let (Some(page), Some(above)) = (space.pages.get(&number), space.pages.get(&(number + 1))) else {
                return false;
            };
            if !page.continues_in(above) || guards_split && page.guard != above.guard {
                return false;
            }
            is_certain &= page.mapping == above.mapping;
        }
        is_certain || !refused
    }

    /// Moves what is mapped in `source`, and leaves holes and what lies under them at the target.
    fn move_to(&mut self, source: Range<u64>, to: u64, keeps_source: bool) -> Result<u64, Errno> {
        if self.is(Mutation::RemapClearsTargetUnderHole) {
            self.space().unmap(to..to + (source.end - source.start));
        }
        let call = self.new_call();
        for number in self.space().mapped(source.clone()) {
            let page = self.take(number, keeps_source);
            let page = Page { mapping: page.mapping.then(call), ..page };
            self.space().pages.insert(to + (number - source.start), page);
        }
        Ok(to * PAGE)
    }

    /// Takes a page away from `number`, or with `keeps_source` only its contents.
    fn take(&mut self, number: u64, keeps_source: bool) -> Page {
        let mut page = self.page(number).clone();
        if keeps_source {
            // Linux unlocks the whole mapping that a part of is moved.
            self.unlock_mapping_of(number);
            let keeps_bytes = self.is(Mutation::KeptSourceKeepsBytes);
            if page.attributes.shared && self.is(Mutation::KeptSharedSourceGoes) {
                self.space().pages.remove(&number);
                return page;
            }
            let left = self.page(number);
            left.guard = false;
            if !keeps_bytes {
                left.copy = None;
            }
        } else if !self.is(Mutation::RemapLeavesSource) {
            self.space().pages.remove(&number);
        }
        if self.is(Mutation::RemapLosesBytes) {
            page.copy = None;
        }
        page
    }

    /// Unlocks all pages of the mapping that `number` belongs to.
    fn unlock_mapping_of(&mut self, number: u64) {
        if !self.page(number).attributes.locked {
            return;
        }
        let pages = &self.space().pages;
        let joins = |low: u64| {
            pages.get(&low).zip(pages.get(&(low + 1))).is_some_and(|(page, above)| page.continues_in(above))
        };
        let first = (0..number).rev().find(|&low| !joins(low)).map_or(0, |low| low + 1);
        let last = (number..).find(|&low| !joins(low)).unwrap_or(number);
        for number in first..=last {
            self.page(number).attributes.locked = false;
        }
    }

    /// Moves a mapping to `count` free pages.
    fn move_grown(&mut self, source: Range<u64>, to: u64, count: u64, keeps_source: bool) {
        let mut template = self.page(source.start).clone();
        let call = self.new_call();
        template.mapping = template.mapping.then(call);
        let moved: BTreeMap<u64, Page> =
            source.clone().map(|number| (number, self.take(number, keeps_source))).collect();
        for (number, page) in moved {
            let page = Page { mapping: page.mapping.then(call), ..page };
            self.space().pages.insert(to + (number - source.start), page);
        }
        let length = source.end - source.start;
        self.extend(&template, to, length..count);
    }

    /// Grows a mapping up to page `end`.
    fn append(&mut self, source: Range<u64>, end: u64) {
        let mut template = self.page(source.start).clone();
        template.mapping = self.page(source.end - 1).mapping;
        self.extend(&template, source.start, source.end - source.start..end - source.start);
    }

    /// Adds pages to the mapping that starts at page `start` with `template`.
    fn extend(&mut self, template: &Page, start: u64, added: Range<u64>) {
        let is_duplicate = added.start == 0;
        for index in added.clone() {
            let backing = template.backing.map(|b| Backing { page: b.page + index, ..b });
            let mut page = Page { backing, copy: None, guard: false, ..template.clone() };
            if let Some(Backing { object, page: at }) = backing {
                let object = &mut self.objects[object.0];
                if self.mutation == Some(Mutation::SharedGrowthAddsMemory) && !is_duplicate {
                    object.resize(object.size.max((at + 1) * PAGE));
                }
                if self.mutation == Some(Mutation::DuplicateIsACopy) && is_duplicate {
                    page.copy = object.page(at).cloned();
                }
            }
            self.space().pages.insert(start + index, page);
        }
        if template.attributes.locked {
            self.populate(start + added.start..start + added.end);
        }
    }
}
