//! Tasks that use nothing: they are preempted all the same.

use crate::task;

pub fn begin() {}

pub fn task(_index: usize) {
    while task::preemptions().0 < 200 {
        core::hint::spin_loop();
    }
}

pub fn tick() {}

pub fn end() {}
