//! Counters of each CPU.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use crate::Ticks;

/// Number of buckets of the latency histogram.
pub const LATENCY_BUCKETS: usize = if cfg!(loom) { 1 } else { 32 };

/// A counter written by a single CPU and read by any.
///
/// An addition is a load and a store, not an atomic read-modify-write: a handler nested between the
/// two loses a count.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[cfg(not(loom))]
    const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    #[cfg(loom)]
    fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Adds `more`. Relaxed: a count orders nothing.
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        // Under loom each access is a step to explore, and no model reads the counters.
        if !cfg!(loom) {
            self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A CPU's counters, written by the CPU itself.
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            latency: [Counter; LATENCY_BUCKETS],
        }

        impl Counters {
            #[cfg(not(loom))]
            pub(crate) const fn new() -> Counters {
                Counters { $($name: Counter::new(),)* latency: [const { Counter::new() }; LATENCY_BUCKETS] }
            }

            #[cfg(loom)]
            pub(crate) fn new() -> Counters {
                Counters { $($name: Counter::new(),)* latency: core::array::from_fn(|_| Counter::new()) }
            }

            /// Returns the counts of this moment.
            pub(crate) fn read(&self) -> Stats {
                Stats {
                    $($name: self.$name.get(),)*
                    latency: core::array::from_fn(|bucket| self.latency[bucket].get()),
                }
            }
        }

        /// Counts of a CPU since boot.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Requests waited for and concerning remote CPUs, by the time from issue to completion
            /// as seen by their waiter. Bucket `n` counts times of `2^n..2^(n+1)` ticks. The first
            /// bucket also counts zero ticks, the last bucket all longer times.
            pub latency: [u64; LATENCY_BUCKETS],
        }

        impl core::ops::AddAssign for Stats {
            /// Sums the counts of several CPUs.
            fn add_assign(&mut self, other: Stats) {
                $(self.$name += other.$name;)*
                for (sum, more) in self.latency.iter_mut().zip(other.latency) {
                    *sum += more;
                }
            }
        }
    };
}

counters! {
    /// Invalidations and batches issued.
    requests,
    /// Interrupts sent, one per target CPU.
    ipis_sent,
    /// Calls of [`Tlb::send_ipi`](crate::Tlb::send_ipi), each for one or more targets.
    ipi_sends,
    /// Interrupts saved because another was on its way to the target already.
    elided_pending,
    /// Interrupts saved because the target was lazy or idle.
    elided_lazy,
    /// Interrupts sent again after a target's long silence.
    ipis_resent,
    /// Calls of the interrupt handler, spurious ones included.
    ipis_received,
    /// Times a waiter halted, or was about to.
    halts,
    /// Requests found by polling instead of by interrupt.
    polls_served,
    /// Times the TLB was flushed as a whole (non-global entries or all).
    full_flushes,
    /// Times only single pages were flushed.
    partial_flushes,
    /// Pages flushed singly.
    pages_flushed,
    /// Switches to a space whose kept translations were still valid.
    asids_kept,
    /// Switches to a space whose ASID was flushed, after use by another space or after too many
    /// changes.
    asids_flushed,
    /// Requests broadcast by the hardware.
    broadcasts,
    /// Full flushes because the log no longer, or not yet, held every missed generation.
    log_misses,
}

impl Counters {
    /// Counts a request completed after `span`.
    #[inline]
    pub(crate) fn record_latency(&self, span: Ticks) {
        let bucket = (span.0 | 1).ilog2() as usize;
        self.latency[bucket.min(LATENCY_BUCKETS - 1)].add(1);
    }
}
