//! Forks, beside threads too, and calls that a signal interrupts.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use topomem_programs::{PAGE, ensure, in_child};

use super::{MOVING, handle, pages, trample};

/// A child has its parent's memory, and neither sees what the other writes afterwards.
pub(super) fn fork() -> Result<(), u8> {
    const PAGES: usize = 16;
    let place = pages(PAGES, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: the pages are this check's own, each touched by one process of its own copy.
    let (set, all) = unsafe {
        (
            |value: u8| (0..PAGES).for_each(|page| place.add(page * PAGE).write_volatile(value)),
            |value: u8| (0..PAGES).all(|page| place.add(page * PAGE).read_volatile() == value),
        )
    };
    for round in 1..=4 {
        set(round);
        let status = in_child(|| {
            let before = all(round);
            set(100 + round);
            let after = all(100 + round);
            // A child of the child's.
            let status = in_child(|| u8::from(!all(100 + round)));
            if before && after && status == 0 { 10 + round } else { 1 }
        });
        ensure(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == c_int::from(10 + round), round)?;
        ensure(all(round), 20 + round)?;
    }
    // SAFETY: address 8 is nobody's.
    let status = in_child(|| unsafe { ptr::without_provenance::<u8>(8).read_volatile() });
    ensure(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, 40)?;
    // SAFETY: it waits for a child that there is none of.
    ensure(unsafe { libc::waitpid(-1, ptr::null_mut(), 0) } == -1, 41)?;
    fork_beside_threads()
}

/// Copies are made while other threads write: each child finds what was written before, in order.
fn fork_beside_threads() -> Result<(), u8> {
    let place = pages(2, libc::PROT_READ | libc::PROT_WRITE) as usize;
    // SAFETY: the words are aligned, in pages that stay, and atomic.
    let word = move |page: usize| unsafe { &*ptr::with_exposed_provenance::<AtomicU32>(place + page * PAGE) };
    let writer = thread::spawn(move || {
        let mut number = 0;
        while MOVING.load(Ordering::Relaxed) {
            number += 1;
            word(0).store(number, Ordering::Release);
            word(1).store(number, Ordering::Release);
        }
    });
    for _ in 0..20 {
        let status = in_child(|| {
            // The second is written after the first, and so never ahead of it.
            let (second, first) = (word(1).load(Ordering::Acquire), word(0).load(Ordering::Acquire));
            u8::from(!(second == first || second + 1 == first))
        });
        ensure(status == 0, 50)?;
        thread::sleep(Duration::from_millis(1));
    }
    MOVING.store(false, Ordering::Relaxed);
    writer.join().map_err(|_| 51)
}

/// A wait that a signal interrupts goes on after the handler if the action says so, and else ends.
pub(super) fn restart() -> Result<(), u8> {
    for (number, flags) in [(1, libc::SA_RESTART), (2, 0)] {
        handle(libc::SIGUSR1, trample as *const (), flags);
        let parent = std::process::id() as libc::pid_t;
        // SAFETY: the child uses nothing that another thread could have left in the middle of a change.
        let child = unsafe { libc::fork() };
        if child == 0 {
            thread::sleep(Duration::from_millis(20));
            // SAFETY: it sends a signal, and ends the process.
            unsafe {
                libc::kill(parent, libc::SIGUSR1);
                thread::sleep(Duration::from_millis(20));
                libc::_exit(7);
            }
        }
        let mut status = -1;
        // SAFETY: the status is this function's own.
        let mut wait = || unsafe { libc::waitpid(child, &mut status, 0) };
        let first = wait();
        let is_interrupted = std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
        match flags {
            0 => ensure(first == -1 && is_interrupted && wait() == child, number)?,
            _ => ensure(first == child, number)?,
        }
        ensure(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, 10 + number)?;
    }
    Ok(())
}
