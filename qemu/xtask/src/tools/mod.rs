//! What building, running and testing needs on this machine, and installing what is missing.

mod disk;
mod doctor;
mod install;
mod tool;

pub(crate) use disk::ensure_room_for_a_step;
pub(crate) use doctor::doctor;
pub(crate) use install::{ensure, obstacle_to_newer_qemu, prepare};
pub(crate) use tool::{Tool, is_debian, is_root};
