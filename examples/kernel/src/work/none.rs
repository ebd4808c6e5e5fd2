//! Tasks that use nothing: they are preempted all the same.

use crate::task;

pub(crate) fn begin() {}

pub(crate) fn task(_index: usize) {
    while task::goes_on(0, 0) {
        core::hint::spin_loop();
    }
}

pub(crate) fn tick() {}

pub(crate) fn end() {}
