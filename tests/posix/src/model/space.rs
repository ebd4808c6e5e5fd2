//! What a process has mapped, page by page.

use std::collections::BTreeMap;
use std::ops::Range;

use super::content::Content;
use super::object::ObjectId;
use crate::log::operation::{PAGE, Protection};
use crate::log::slots::TOP;

/// Which object a page shows, and which page of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backing {
    pub(super) object: ObjectId,
    pub(super) page: u64,
}

/// What a mapping says of each of its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) protection: Protection,
    /// Listed as shared; writes go to the object.
    pub(super) shared: bool,
    /// Whether writes may be permitted: not for shared mappings of a file that is open for reading alone.
    pub(super) may_write: bool,
    pub(super) grows_down: bool,
    pub(super) dont_fork: bool,
    pub(super) wipe_on_fork: bool,
    pub(super) locked: bool,
}

/// The calls that a page's mapping comes from, as a number.
///
/// Pages with equal numbers belong to one mapping for certain. Neighbours that are alike in all but this
/// number may have been joined by the system or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin(pub(super) u64);

impl Origin {
    /// Returns the number after a further call.
    pub(super) fn then(self, call: Origin) -> Origin {
        Origin((self.0 ^ call.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A mapped page.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) attributes: Attributes,
    /// None for private anonymous memory.
    pub(super) backing: Option<Backing>,
    /// The process's own copy. Without one, the page shows its backing, or zeros.
    pub(super) copy: Option<Content>,
    /// An access is an error, whatever the attributes permit.
    pub(super) guard: bool,
    pub(super) mapping: Origin,
}

impl Page {
    /// Tells whether the page above is one mapping with this one, if the system joins what it can.
    pub(super) fn continues_in(&self, above: &Page) -> bool {
        let next = self.backing.map(|backing| Backing { page: backing.page + 1, ..backing });
        self.attributes == above.attributes && next == above.backing
    }

    pub(super) fn is_anonymous_private(&self) -> bool {
        self.backing.is_none()
    }
}

/// The address space of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Space {
    /// By number of page.
    pub(super) pages: BTreeMap<u64, Page>,
    /// The end of the heap, in bytes.
    pub(super) end_of_heap: u64,
}

impl Space {
    /// Tells whether nothing is mapped in `pages`.
    pub(super) fn is_free(&self, pages: Range<u64>) -> bool {
        self.pages.range(pages).next().is_none()
    }

    /// Returns the mapped pages of a range.
    pub(super) fn mapped(&self, pages: Range<u64>) -> Vec<u64> {
        self.pages.range(pages).map(|(&number, _)| number).collect()
    }

    /// Tells whether a page of the range is not mapped.
    pub(super) fn has_hole(&self, pages: Range<u64>) -> bool {
        self.pages.range(pages.clone()).count() as u64 != pages.end - pages.start
    }

    pub(super) fn unmap(&mut self, pages: Range<u64>) {
        if pages.is_empty() {
            return;
        }
        for page in self.mapped(pages) {
            self.pages.remove(&page);
        }
    }

    /// Returns `count` free pages below the top.
    pub(super) fn choose(&self, count: u64) -> u64 {
        let mut start = TOP / PAGE - 1024 - count;
        while !self.is_free(start..start + count) {
            start -= 1;
        }
        start
    }
}
