//! Who calls the global allocator: backtraces, each kept once, of which the heap notes the number.
//!
//! One return address would say little: as many calls of Rust's library as were not inlined lie between a `Box`
//! or a vector and the allocator. So a trace is kept whole, and the runner, which has the debug information,
//! finds the function in it.

use core::sync::atomic::{AtomicU64, Ordering};

use topomem::percpu::Caller;

use crate::panic::backtrace::Backtrace;

/// How many traces there is room for. Allocations with yet another one have none.
pub(crate) const TRACES: usize = 1024;
/// Calls of a trace. Those from the heap's to the allocation are the innermost.
const DEPTH: usize = 16;

/// A backtrace. A place is claimed by its hash, and the addresses follow; nothing is ever taken out.
struct Trace {
    /// Of the addresses; zero if the place is free.
    hash: AtomicU64,
    /// Zero behind the last.
    addresses: [AtomicU64; DEPTH],
}

/// Relaxed: who prints a trace that was claimed a moment ago may see less of it, and nothing depends on that.
static TABLE: [Trace; TRACES] =
    [const { Trace { hash: AtomicU64::new(0), addresses: [const { AtomicU64::new(0) }; DEPTH] } }; TRACES];

/// Returns the number of the trace that leads here: its place in the table, counted from 1.
pub(crate) fn here() -> Option<Caller> {
    let backtrace = Backtrace::here();
    let addresses = backtrace.addresses().get(..DEPTH).unwrap_or(backtrace.addresses());
    // FNV-1a by words; never zero.
    let hash = addresses
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &address| (hash ^ address).wrapping_mul(0x100_0000_01b3))
        | 1;
    let first = hash as usize % TRACES;
    for place in (first..TRACES).chain(0..first) {
        let trace = &TABLE[place];
        match trace.hash.compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                for (word, &address) in trace.addresses.iter().zip(addresses) {
                    word.store(address, Ordering::Relaxed);
                }
            }
            Err(found) if found == hash => {}
            Err(_) => continue,
        }
        return Caller::new(place + 1);
    }
    None
}

/// Returns the place of `caller` in the table.
pub(crate) fn place(caller: Caller) -> usize {
    (caller.get() - 1) % TRACES
}

/// Returns the backtrace of `caller`, innermost call first.
pub(crate) fn trace(caller: Caller) -> Backtrace {
    let words = TABLE[place(caller)].addresses.iter();
    Backtrace::of(words.map(|word| word.load(Ordering::Relaxed)).take_while(|&address| address != 0))
}
