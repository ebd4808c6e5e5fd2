//! The project's pages, compared with its sources.

mod coverage;
mod guide;
