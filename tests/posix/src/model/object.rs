//! Files and shared anonymous memory.

use std::collections::BTreeMap;

use super::content::Content;
use crate::log::operation::PAGE;

/// Names an object of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ObjectId(pub(super) usize);

/// Bytes that several mappings can show.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// In bytes.
    pub(super) size: u64,
    /// By number of page; a page that is missing holds zeros.
    pages: BTreeMap<u64, Content>,
}

impl Object {
    pub(super) fn new(size: u64) -> Object {
        Object { size, pages: BTreeMap::new() }
    }

    /// Returns the page, or nothing if it lies beyond the end.
    pub(super) fn page(&mut self, number: u64) -> Option<&mut Content> {
        let is_there = number < self.size.div_ceil(PAGE);
        is_there.then(|| self.pages.entry(number).or_insert_with(Content::zero))
    }

    /// Sets the size. What lies beyond a smaller size is gone.
    pub(super) fn resize(&mut self, size: u64) {
        let (page, offset) = (size / PAGE, size % PAGE);
        if size < self.size {
            self.pages.retain(|&number, _| number * PAGE < size);
            if let Some(last) = self.pages.get_mut(&page) {
                last.clear_from(offset);
            }
        } else {
            // A mapping may have written to the last page, beyond the old end. Whether these bytes stay,
            // and appear when the file grows, is up to the system.
            let (page, offset) = (self.size / PAGE, self.size % PAGE);
            if let Some(last) = self.pages.get_mut(&page) {
                last.may_clear_from(offset);
            }
        }
        self.size = size;
    }

    /// Zeroes pages.
    pub(super) fn punch(&mut self, pages: std::ops::Range<u64>) {
        self.pages.retain(|number, _| !pages.contains(number));
    }
}
