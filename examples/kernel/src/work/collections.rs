//! Tasks that use Rust's collections while they are preempted, on all CPUs, and free each other's objects. Objects
//! hold their owner's marks; the timer's handler allocates and frees, too. At the end every page has come back,
//! but for those that the heap says that it keeps.

extern crate alloc;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use topomem_percpu::Platform;

use crate::random::Random;
use crate::tier::{HEAP, Kernel};
use crate::{must, println, task};

/// Rounds of each task, at least.
const ROUNDS: usize = 4_000;
/// Messages on their way from one task to another.
const MAILBOXES: usize = 32;

/// Free pages before the heap was used.
static AT_FIRST: AtomicU64 = AtomicU64::new(0);
static BY_HANDLERS: AtomicU64 = AtomicU64::new(0);
static BY_TASKS: AtomicU64 = AtomicU64::new(0);
static FROM_OTHERS: AtomicU64 = AtomicU64::new(0);

/// Words with a mark in each.
struct Message {
    sender: usize,
    seed: u64,
    words: Vec<u64>,
}

static MAILBOX_SLOTS: [AtomicPtr<Message>; MAILBOXES] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAILBOXES];

impl Message {
    fn new(sender: usize, random: &mut Random) -> Message {
        // Mostly small, and some of several pages.
        let count = if random.below(16) > 0 { random.below(64) } else { random.below(8192) };
        let seed = random.below(1 << 30) as u64;
        // Grows, so that it is reallocated.
        let mut words = Vec::new();
        (0..count as u64).for_each(|index| words.push(seed ^ index << 32));
        BY_TASKS.fetch_add(1, Ordering::Relaxed);
        Message { sender, seed, words }
    }

    fn check(&self, receiver: usize) {
        for (index, &word) in self.words.iter().enumerate() {
            let marked = self.seed ^ (index as u64) << 32;
            assert_eq!(word, marked, "task {receiver}: a message of task {} has changed", self.sender);
        }
        if self.sender != receiver {
            FROM_OTHERS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Puts a message into a mailbox, and returns the one that was there.
fn exchange(mailbox: usize, message: Option<Box<Message>>) -> Option<Box<Message>> {
    let message = message.map_or(ptr::null_mut(), Box::into_raw);
    // AcqRel: the receiver sees what the sender wrote.
    let found = MAILBOX_SLOTS[mailbox].swap(message, Ordering::AcqRel);
    // SAFETY: it came from `Box::into_raw`, and is in no mailbox any more.
    (!found.is_null()).then(|| unsafe { Box::from_raw(found) })
}

/// Notes how many pages are free, before the heap was used.
pub(super) fn begin(free_pages: u64) {
    AT_FIRST.store(free_pages, Ordering::Relaxed);
}

pub(crate) fn task(index: usize) {
    let mut random = Random::new(index);
    let mut own = BTreeMap::new();
    for round in (0..).take_while(|&round| task::goes_on(round, ROUNDS)) {
        let sent = Box::new(Message::new(index, &mut random));
        if let Some(found) = exchange(random.below(MAILBOXES), Some(sent)) {
            found.check(index);
        }
        if let Some(old) = own.insert(random.below(64), Message::new(index, &mut random)) {
            old.check(index);
        }
        if round % 1000 == 0 {
            task::yield_now();
        }
    }
    own.values().for_each(|message| message.check(index));
}

/// In the timer's handler, which may have interrupted an allocation.
pub(crate) fn tick() {
    if AT_FIRST.load(Ordering::Relaxed) != 0 {
        let number = BY_HANDLERS.fetch_add(1, Ordering::Relaxed);
        let boxed = Box::new([number; 8]);
        assert!(boxed.iter().all(|&word| word == number), "changed under a handler");
    }
}

/// Pages that the kernel gave the heap's one node beyond what the heap asked for: that part is a run of no power of two,
/// and both the kernel's own pages and the area for early pages give powers of two.
const ROUNDED_UP: u64 = 1;

/// Checks that all pages are free again, but for those of the heap and `elsewhere`.
pub(super) fn end(elsewhere: u64, free_pages: impl Fn() -> u64) {
    (0..MAILBOXES)
        .filter_map(|mailbox| exchange(mailbox, None))
        .for_each(|message| message.check(usize::MAX));
    HEAP.drain(&Kernel.pin());
    must("validate", HEAP.validate());
    let stats = HEAP.stats();
    let (first, last, kept) = (AT_FIRST.load(Ordering::Relaxed), free_pages(), stats.metadata_bytes / 4096);
    let [tasks, others, handlers] =
        [&BY_TASKS, &FROM_OTHERS, &BY_HANDLERS].map(|count| count.load(Ordering::Relaxed));
    println!("{tasks} messages, {others} freed by others, {handlers} boxes by handlers");
    println!("free pages: {first}, then {last}; the heap keeps {kept}");
    assert_eq!((stats.live_bytes, stats.slab_bytes + stats.large_bytes), (0, 0), "objects are lost");
    assert_eq!(first, last + kept + ROUNDED_UP + elsewhere, "pages are lost");
    assert!(others > 1000 && handlers > 100, "too little was done");
}
