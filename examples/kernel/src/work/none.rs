//! Tasks that use nothing: they are preempted all the same.

use crate::task;

pub fn begin() {}

pub fn task(_index: usize) {
    while task::goes_on(0, 0) {
        core::hint::spin_loop();
    }
}

pub fn tick() {}

pub fn end() {}
