//! Futexes: waiting for a word of a program's memory to change.

extern crate alloc;

use alloc::vec::Vec;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use spin::mutex::SpinMutex;
use topomem::object::ObjectId;
use topomem::region::FaultAccess;

use super::event::with_limit;
use super::memory::SpaceKey;
use super::{Interrupted, Memory, Shared, Task};
use crate::arch::user::{self, UserFault};
use crate::per_cpu::Polling;
use crate::syscall::Errno;

/// What a futex is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FutexKey {
    /// A word that its address space alone has, by its address there.
    Own {
        /// The address space.
        space: SpaceKey,
        /// The word's address.
        address: u64,
    },
    /// A word that processes share, by its place in the object that they have mapped.
    Shared {
        /// The object.
        object: ObjectId,
        /// Bytes from its start.
        offset: u64,
    },
}

impl FutexKey {
    /// Returns what the word at `address` of `memory` is known by, wherever it lies.
    pub(crate) fn of(memory: &Memory, address: u64) -> FutexKey {
        match memory.shared_byte(address) {
            Some((object, offset)) => FutexKey::Shared { object, offset },
            None => FutexKey::Own { space: memory.key(), address },
        }
    }
}

struct Waiter {
    key: FutexKey,
    bits: u32,
    sleeper: Shared<Sleeper>,
}

/// A thread that waits.
struct Sleeper {
    is_woken: AtomicBool,
    waker: SpinMutex<Option<Waker>, Polling>,
}

/// All that wait, in the order in which they began.
static WAITING: SpinMutex<Vec<Waiter>, Polling> = SpinMutex::new(Vec::new());

/// Wakes up to `most` that wait at `key` with one of `bits`; how many that is.
pub(crate) fn wake(key: FutexKey, most: usize, bits: u32) -> usize {
    let mut woken = 0;
    while woken < most {
        let mut waiting = WAITING.lock();
        let Some(at) = waiting.iter().position(|waiter| waiter.key == key && waiter.bits & bits != 0) else {
            break;
        };
        let waiter = waiting.remove(at);
        drop(waiting);
        // Release pairs with the Acquire in `Woken`: what the waking thread did happened before.
        waiter.sleeper.is_woken.store(true, Ordering::Release);
        if let Some(waker) = waiter.sleeper.waker.lock().take() {
            waker.wake();
        }
        woken += 1;
    }
    woken
}

/// Wakes up to `most_woken` that wait at `from`, and has up to `most_moved` others wait at `to`. Returns how
/// many of each.
pub(crate) fn requeue(from: FutexKey, to: FutexKey, most_woken: usize, most_moved: usize) -> (usize, usize) {
    let woken = wake(from, most_woken, u32::MAX);
    let mut waiting = WAITING.lock();
    let moved = waiting.iter_mut().filter(|waiter| waiter.key == from).take(most_moved);
    let moved = moved.map(|waiter| waiter.key = to).count();
    (woken, moved)
}

/// Takes its waiter out when the wait ends, however it ends.
struct Noted(Shared<Sleeper>);

impl Drop for Noted {
    fn drop(&mut self) {
        let mut waiting = WAITING.lock();
        waiting.retain(|waiter| !core::ptr::eq(&*waiter.sleeper, &*self.0));
        if waiting.is_empty() {
            // Its memory, too.
            *waiting = Vec::new();
        }
    }
}

struct Woken<'s>(&'s Sleeper);

impl Future for Woken<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        *self.0.waker.lock() = Some(context.waker().clone());
        // Acquire pairs with the Release in `wake`, which takes the waker after it has stored this.
        if self.0.is_woken.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Task {
    /// Waits until somebody wakes `key`, if its word, which is at `address`, is `expected`.
    ///
    /// # Errors
    ///
    /// [`Errno::AGAIN`] if it is not, [`Errno::TIMED_OUT`] after `time`, [`Errno::INTERRUPTED`],
    /// [`Errno::FAULT`], [`Errno::NO_MEMORY`].
    pub(crate) async fn wait_for_futex(
        &self,
        key: FutexKey,
        address: u64,
        expected: u32,
        bits: u32,
        time: Option<Duration>,
    ) -> Result<(), Errno> {
        let sleeper = Shared::new(Sleeper { is_woken: AtomicBool::new(false), waker: SpinMutex::new(None) })?;
        loop {
            self.memory().activate();
            // The word is read under the lock that `wake` takes: whoever changes it and then wakes finds the
            // waiter.
            let mut waiting = WAITING.lock();
            match user::load(address) {
                Ok(word) if word != expected => return Err(Errno::AGAIN),
                Ok(_) => {
                    waiting.try_reserve(1).map_err(|_| Errno::NO_MEMORY)?;
                    waiting.push(Waiter { key, bits, sleeper: sleeper.clone() });
                    break;
                }
                Err(UserFault::NoUserAddress) => return Err(Errno::FAULT),
                Err(UserFault::Page { address, .. }) => {
                    drop(waiting);
                    self.memory().resolve(address, FaultAccess::Read).await.map_err(|_| Errno::FAULT)?;
                }
            }
        }
        let noted = Noted(sleeper);
        let wait = self.thread.wait(with_limit(Woken(&noted.0), time)).await;
        let is_woken = noted.0.is_woken.load(Ordering::Acquire);
        match wait {
            // It may have been woken in the same moment; then nobody else was.
            _ if is_woken => Ok(()),
            Ok(_) => Err(Errno::TIMED_OUT),
            Err(Interrupted) => Err(Errno::INTERRUPTED),
        }
    }
}
