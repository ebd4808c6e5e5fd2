//! What came of a run: gathered from the records, shown to people, written as JSON.

mod collect;
mod json;
mod screen;
mod spread;
mod summary;
mod table;
mod topology;

pub(crate) use collect::{Finished, Report};
pub(crate) use json::{Document, write};
pub(crate) use screen::Screen;
pub(crate) use summary::summary;
pub(crate) use table::Table;
pub(crate) use topology::number_list;
