//! Calls by descriptor.

use std::ops::Range;

use super::map::{modes, object_of};
use super::object::ObjectId;
use super::space::{Backing, Page};
use super::{Model, Mutation};
use crate::compare::answer::Errno;
use crate::log::operation::{Descriptor, OFFSETS, PAGE, Sample};

/// What `pread` answers at the end of a file.
const END: u64 = 256;

impl Model {
    pub(super) fn write_file(&mut self, file: Descriptor, position: u64, value: u8) -> Result<u64, Errno> {
        let (_, writes) = modes(file);
        if !writes {
            return Err(Errno::EBADF);
        }
        if self.is(Mutation::FileWritesMissMappings) {
            self.detach_mappings(object_of(file), position / PAGE);
        }
        let object = &mut self.objects[object_of(file).0];
        if position >= object.size {
            object.resize(position + 1);
        }
        if let Some(page) = object.page(position / PAGE) {
            page.write(sample_of(position), value);
        }
        Ok(1)
    }

    pub(super) fn read_file(
        &mut self,
        file: Descriptor,
        position: u64,
        seen: Option<u8>,
    ) -> Result<u64, Errno> {
        let (reads, _) = modes(file);
        if !reads {
            return Err(Errno::EBADF);
        }
        let object = &mut self.objects[object_of(file).0];
        if position >= object.size {
            return Ok(END);
        }
        let page = object.page(position / PAGE);
        Ok(page.map_or(END, |page| u64::from(page.read(sample_of(position), seen))))
    }

    pub(super) fn truncate(&mut self, file: Descriptor, length: u64) -> Result<u64, Errno> {
        match file {
            Descriptor::Closed => return Err(Errno::EBADF),
            Descriptor::Pipe | Descriptor::Directory | Descriptor::FirstReadOnly => {
                return Err(Errno::EINVAL);
            }
            Descriptor::First | Descriptor::FirstWriteOnly | Descriptor::Second => {}
        }
        let id = object_of(file);
        let shrinks = length < self.objects[id.0].size;
        let keeps_tail = self.is(Mutation::TailOfLastPageShowsBytes);
        let last = self.objects[id.0].page(length / PAGE).cloned().filter(|_| shrinks && keeps_tail);
        if self.is(Mutation::GrownFileShowsOldBytes) {
            self.objects[id.0].size = length;
        }
        self.objects[id.0].resize(length);
        if let (Some(last), Some(page)) = (last, self.objects[id.0].page(length / PAGE)) {
            *page = last;
        }
        if shrinks && !self.is(Mutation::TruncationKeepsPrivateCopies) {
            self.drop_copies(id, length.div_ceil(PAGE)..u64::MAX);
        }
        Ok(0)
    }

    /// Drops private copies of an object's pages, in all processes.
    pub(super) fn drop_copies(&mut self, id: ObjectId, pages: Range<u64>) {
        for page in self.all_pages() {
            if page.backing.is_some_and(|backing| backing.object == id && pages.contains(&backing.page)) {
                page.copy = None;
            }
        }
    }

    /// Gives all mappings of a page of an object a copy of its own.
    fn detach_mappings(&mut self, id: ObjectId, page: u64) {
        let content = self.objects[id.0].page(page).cloned();
        for mapped in self.all_pages() {
            if mapped.backing == Some(Backing { object: id, page }) && mapped.copy.is_none() {
                mapped.copy = content.clone();
            }
        }
    }

    /// Returns the pages of all processes.
    fn all_pages(&mut self) -> impl Iterator<Item = &mut Page> {
        self.spaces.iter_mut().flatten().flat_map(|space| space.pages.values_mut())
    }
}

/// Returns the sample at a position of a file.
fn sample_of(position: u64) -> Sample {
    let index = OFFSETS.iter().position(|&offset| offset == position % PAGE);
    Sample(index.unwrap_or(0) as u8)
}
