//! Pipes: bytes that one end writes and the other reads.

extern crate alloc;

use alloc::collections::VecDeque;
use core::fmt;

use spin::mutex::SpinMutex;

use crate::per_cpu::Polling;
use crate::process::{Event, OutOfMemory, Shared};
use crate::syscall::Errno;

/// Bytes that a pipe holds.
const CAPACITY: usize = 64 * 1024;

/// Something about a pipe has changed: bytes have come or gone, or an end.
static CHANGED: Event = Event::new();

struct Pipe {
    state: SpinMutex<State, Polling>,
}

struct State {
    bytes: VecDeque<u8>,
    has_reader: bool,
    has_writer: bool,
}

/// Whether something that cannot be done now is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// Until it can be done.
    Wait,
    /// It fails at once.
    Fail,
}

/// The end that reads.
pub(crate) struct PipeReader(Shared<Pipe>);

/// The end that writes.
pub(crate) struct PipeWriter(Shared<Pipe>);

/// Makes a pipe.
///
/// # Errors
///
/// [`OutOfMemory`].
pub(crate) fn pipe() -> Result<(PipeReader, PipeWriter), OutOfMemory> {
    let state = State { bytes: VecDeque::new(), has_reader: true, has_writer: true };
    let pipe = Shared::new(Pipe { state: SpinMutex::new(state) })?;
    Ok((PipeReader(pipe.clone()), PipeWriter(pipe)))
}

/// Returns what tells that a pipe has changed.
pub(crate) fn pipes_changed() -> &'static Event {
    &CHANGED
}

impl PipeReader {
    /// Takes bytes out, as many as there are and as fit; none only if there is no writer any more.
    ///
    /// # Errors
    ///
    /// [`Errno::AGAIN`] if it would have to wait.
    pub(crate) async fn read(&self, to: &mut [u8], blocking: Blocking) -> Result<usize, Errno> {
        let mut read = || {
            let mut state = self.0.state.lock();
            let count = to.len().min(state.bytes.len());
            for (to, from) in to.iter_mut().zip(state.bytes.drain(..count)) {
                *to = from;
            }
            (count > 0 || !state.has_writer || to.is_empty()).then_some(count)
        };
        let count = match blocking {
            Blocking::Wait => CHANGED.wait(read).await,
            Blocking::Fail => read().ok_or(Errno::AGAIN)?,
        };
        CHANGED.notify();
        Ok(count)
    }

    /// Tells whether there are bytes, and whether nobody writes any more.
    pub(crate) fn look(&self) -> (bool, bool) {
        let state = self.0.state.lock();
        (!state.bytes.is_empty(), !state.has_writer)
    }
}

impl PipeWriter {
    /// Puts all bytes in at once. They must be fewer than a pipe holds.
    ///
    /// # Errors
    ///
    /// [`Errno::PIPE`] if nobody reads any more, [`Errno::AGAIN`] if it would have to wait,
    /// [`Errno::NO_MEMORY`].
    pub(crate) async fn write(&self, from: &[u8], blocking: Blocking) -> Result<(), Errno> {
        let write = || {
            let mut state = self.0.state.lock();
            if !state.has_reader {
                return Some(Err(Errno::PIPE));
            }
            if CAPACITY - state.bytes.len() < from.len() {
                return None;
            }
            if state.bytes.try_reserve(from.len()).is_err() {
                return Some(Err(Errno::NO_MEMORY));
            }
            state.bytes.extend(from);
            Some(Ok(()))
        };
        let written = match blocking {
            Blocking::Wait => CHANGED.wait(write).await,
            Blocking::Fail => write().ok_or(Errno::AGAIN)?,
        };
        CHANGED.notify();
        written
    }

    /// Tells whether there is room for a page, and whether nobody reads any more.
    pub(crate) fn look(&self) -> (bool, bool) {
        let state = self.0.state.lock();
        (CAPACITY - state.bytes.len() >= 4096, !state.has_reader)
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.0.state.lock().has_reader = false;
        CHANGED.notify();
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.0.state.lock().has_writer = false;
        CHANGED.notify();
    }
}

impl fmt::Debug for PipeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeReader").finish_non_exhaustive()
    }
}

impl fmt::Debug for PipeWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeWriter").finish_non_exhaustive()
    }
}
