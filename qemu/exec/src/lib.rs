//! What an executable asks of the reference kernel, decided from bytes alone.
//!
//! - [`Image`] is a static ELF executable: which pages it wants, with which contents.
//! - [`InitialStack`] is the stack that a program begins with: arguments, environment, auxiliary vector.
//! - [`Archive`] is the RAM disk: files in the form of `cpio`.
//!
//! Nothing here maps, allocates frames or executes, so all of it is tested on the host. Bytes come from
//! outside: every field is checked before it is used, and what is wrong is a typed error.
#![cfg_attr(not(test), no_std)]

mod archive;
mod image;
mod stack;

pub use archive::{Archive, File};
pub use image::{Access, Bounds, Image, ImageError, Placement, ProgramHeaders, Segment};
pub use stack::{InitialStack, StackError, Text};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
