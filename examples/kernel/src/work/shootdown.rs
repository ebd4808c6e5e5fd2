//! Tasks that map and unmap pages of one window, and read each other's, while they are preempted, on all CPUs. No
//! CPU may see a page that is known to be unmapped, nor the frame that a page showed before. Frames are freed when
//! the invalidation is complete: after a wait, or later, from a list of what is deferred.

use core::sync::atomic::{AtomicU64, Ordering};

use topomem_percpu::{CpuId, Platform};
use topomem_shootdown::Deferred;

use crate::machine::at;
use crate::random::Random;
use crate::tier::{Kernel, QUEUE, forget};
use crate::{must, pages, paging, println, task};

/// Rounds of each task, at least.
const ROUNDS: usize = 2_000;
/// Pages of the window; each belongs to one task, which changes it.
const SLOTS: usize = 8 * task::TASKS;

/// What is known of each page: in the lowest bits what it is, above how often that has changed.
static KNOWN: [AtomicU64; SLOTS] = [const { AtomicU64::new(UNMAPPED) }; SLOTS];
/// It is being changed: it may be both.
const CHANGING: u64 = 0;
const UNMAPPED: u64 = 1;
const MAPPED: u64 = 2;

static AT_FIRST: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);
static UNSEEN: AtomicU64 = AtomicU64::new(0);
static DEFERRED: AtomicU64 = AtomicU64::new(0);
static TURN: AtomicU64 = AtomicU64::new(0);

fn page(slot: usize) -> u64 {
    paging::WINDOW + slot as u64 * 4096
}

/// Changes what is known of a page. Returns it.
fn set(slot: usize, what: u64) -> u64 {
    let known = (KNOWN[slot].load(Ordering::Relaxed) | 3) + 1 + what;
    // SeqCst: whoever reads the page and then finds what was known before has read it before the change.
    KNOWN[slot].store(known, Ordering::SeqCst);
    known
}

/// What stands in a mapped page.
fn mark(slot: usize, known: u64) -> u64 {
    known << 16 ^ slot as u64
}

/// Reads a page as any CPU may, and compares it with what is known of it before and after.
fn look(slot: usize) {
    let before = KNOWN[slot].load(Ordering::SeqCst);
    let found = paging::read(page(slot));
    if KNOWN[slot].load(Ordering::SeqCst) != before {
        return;
    }
    match before & 3 {
        MAPPED => {
            assert_eq!(found, Some(mark(slot, before)), "stale translation: another frame in page {slot}");
            SEEN.fetch_add(1, Ordering::Relaxed);
        }
        UNMAPPED => {
            assert_eq!(found, None, "stale translation: page {slot} is not mapped");
            UNSEEN.fetch_add(1, Ordering::Relaxed);
        }
        _ => {}
    }
}

fn map(slot: usize) {
    let frame = must("a frame", pages::allocate(1).ok_or("none is left"));
    let known = (KNOWN[slot].load(Ordering::Relaxed) | 3) + 1 + CHANGING;
    // What is known next, by `set` below.
    let next = (known | 3) + 1 + MAPPED;
    // SAFETY: the frame is this task's, and mapped to itself.
    unsafe { at::<u64>(frame).write_volatile(mark(slot, next)) };
    set(slot, CHANGING);
    paging::map(page(slot), frame, || must("a table", pages::allocate(1).ok_or("none is left")));
    assert_eq!(set(slot, MAPPED), next);
}

/// The invalidation is complete: nobody can see the frame.
fn unmapped((slot, frame): (usize, u64)) {
    set(slot, UNMAPPED);
    // SAFETY: nothing maps the frame but for the identity map.
    unsafe { at::<u64>(frame).write_volatile(0) };
    pages::free(frame, 1);
}

pub(crate) fn begin() {
    AT_FIRST.store(pages::free_count(), Ordering::Relaxed);
}

pub(crate) fn task(index: usize) {
    let mut random = Random::new(index);
    let mut deferred: Deferred<(usize, u64), SLOTS> = Deferred::new();
    for round in (0..).take_while(|&round| task::goes_on(round, ROUNDS)) {
        let slot = random.below(SLOTS / task::TASKS) * task::TASKS + index;
        match KNOWN[slot].load(Ordering::Relaxed) & 3 {
            UNMAPPED => map(slot),
            MAPPED => {
                set(slot, CHANGING);
                let frame = must("a page", paging::unmap(page(slot)).ok_or("not mapped"));
                let pin = Kernel.pin();
                let ticket = forget(&pin, page(slot));
                if random.below(4) == 0 {
                    ticket.wait(&pin);
                    unmapped((slot, frame));
                } else {
                    must("a deferred free", deferred.push(ticket.detach(), (slot, frame)));
                    DEFERRED.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        while let Some(done) = deferred.pop_done(&QUEUE, QUEUE.kernel()) {
            unmapped(done);
        }
        (0..16).for_each(|_| look(random.below(SLOTS)));
        if round % 1000 == 0 {
            task::yield_now();
        }
    }
    while !deferred.is_empty() {
        while let Some(done) = deferred.pop_done(&QUEUE, QUEUE.kernel()) {
            unmapped(done);
        }
    }
}

/// In the timer's handler.
pub(crate) fn tick() {
    look(TURN.fetch_add(1, Ordering::Relaxed) as usize % SLOTS);
}

pub(crate) fn end() {
    for slot in 0..SLOTS {
        look(slot);
        if let Some(frame) = paging::unmap(page(slot)) {
            pages::free(frame, 1);
        }
    }
    let (first, last) = (AT_FIRST.load(Ordering::Relaxed), pages::free_count());
    let [seen, unseen, deferred] = [&SEEN, &UNSEEN, &DEFERRED].map(|count| count.load(Ordering::Relaxed));
    let stats = (0..4).filter_map(CpuId::new).map(|cpu| QUEUE.stats(cpu));
    let interrupts: u64 = stats.map(|stats| stats.ipis_received).sum();
    println!(
        "{seen} pages seen, {unseen} unmapped ones not seen, {deferred} frees deferred, {interrupts} interrupts"
    );
    println!("free pages: {first}, then {last}; {} tables", paging::table_count());
    assert_eq!(first, last + paging::table_count(), "frames are lost");
    assert!(seen.min(unseen).min(deferred).min(interrupts) > 300, "too little was done");
}
