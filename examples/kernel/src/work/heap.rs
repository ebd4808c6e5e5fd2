//! The tasks use Rust's collections, over the kernel's own pages.

use crate::pages;

#[path = "collections.rs"]
mod collections;

pub(crate) use collections::{task, tick};

pub(crate) fn begin() {
    collections::begin(pages::free_count());
}

pub(crate) fn end() {
    collections::end(0, pages::free_count);
}
