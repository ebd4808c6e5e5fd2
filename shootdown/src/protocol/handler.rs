//! The receiver's side: clear the pending word, read the generations, flush, publish.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::CpuState;
use crate::domain::{Domain, Kind};
use crate::{Generation, PageRange, Scope, Shootdown, Tlb, WakersDue};

/// How to flush for missed generations.
enum Flush {
    /// Page by page, as the log says.
    Pages,
    /// Everything that is not global.
    NonGlobal,
    /// All translations of the domain.
    Domain,
}

/// The changes appended to a domain's log by the announcing CPU itself.
#[derive(Clone, Copy)]
pub(crate) enum Appended<'a> {
    /// A single scope.
    One(Scope),
    /// Ranges of one generation each, or merged.
    Ranges(&'a [PageRange]),
    /// Changes known to the log only.
    Logged,
}

impl<T: Tlb> Shootdown<T> {
    /// Serves a shootdown interrupt: the body of the interrupt handler.
    ///
    /// Interrupts may be masked or not, and the handler may interrupt any code. It takes no lock
    /// and allocates nothing. Spurious, late and nested calls are harmless: the work follows from
    /// generations, not from the number of calls.
    ///
    /// Returns whether a waker is due. The kernel then arranges for [`Shootdown::wake_completed`]
    /// to be called soon, outside interrupt handlers. The answer also covers requests served
    /// earlier by [`Shootdown::poll`] or by a waiter, whose interrupt still arrives.
    ///
    /// Bound: for each of two domains, 32 log entries read twice, and [`Shootdown::threshold`]
    /// pages flushed singly or the TLB flushed once.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// use topomem_shootdown::{Shootdown, Tlb, WakersDue};
    /// # use topomem_percpu::Platform;
    ///
    /// static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    ///
    /// fn interrupt_handler() {
    ///     let pin = QUEUE.tlb().pin();
    ///     if QUEUE.on_ipi(&pin) == WakersDue::Perhaps {
    ///         // ... have the next task switch call `QUEUE.wake_completed` ...
    ///     }
    ///     // ... end of interrupt ...
    /// }
    /// # interrupt_handler();
    /// ```
    #[inline]
    pub fn on_ipi(&self, pin: &CpuPin) -> WakersDue {
        self.state(pin.cpu()).counters.ipis_received.add(1);
        self.serve(pin);
        self.wakers_due()
    }

    /// Serves an interrupt on its way, or masked. For spin loops: a kernel calls the function from
    /// [`Platform::relax`]. Cost: a load if nothing is pending.
    ///
    /// [`Platform::relax`]: topomem_percpu::Platform::relax
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// // In a spin loop that may run with interrupts masked:
    /// QUEUE.poll(&pin);
    /// assert_eq!(QUEUE.stats(pin.cpu()).polls_served, 0); // no request was pending
    /// ```
    #[inline]
    pub fn poll(&self, pin: &CpuPin) {
        let state = self.state(pin.cpu());
        // Relaxed: only a hint to swap. The swap synchronises.
        if state.mailbox.pending.load(Ordering::Relaxed) {
            self.serve_polled(pin);
        }
    }

    // Not inlined, so polling loops save no registers for the call.
    #[inline(never)]
    fn serve_polled(&self, pin: &CpuPin) {
        self.state(pin.cpu()).counters.polls_served.add(1);
        self.serve(pin);
        // The interrupt tells of wakers. A CPU that halts may hold the lock that keeps it away.
        let _ = self.wakers_due();
    }

    #[inline]
    fn serve(&self, pin: &CpuPin) {
        let pending = &self.state(pin.cpu()).mailbox.pending;
        // Cleared before the generations are read: a later sender finds the word clear and interrupts
        // again. Acquire: earlier senders' generations are read below; see `Mailbox::pending`.
        let clear = || _ = pending.swap(false, Ordering::AcqRel);
        self.fault.clear_then_catch_up(clear, || self.catch_up_all(pin));
        self.fault.answer(pin.cpu());
    }

    /// Flushes for the generations not yet seen by the CPU, in each domain used by the CPU.
    // Always: an interrupt that misses one page of the space calls nothing, and saves no registers.
    #[inline(always)]
    pub(crate) fn catch_up_all(&self, pin: &CpuPin) {
        let state = self.state(pin.cpu());
        if !self.catch_up_page(state) {
            self.catch_up_domains(pin);
        }
    }

    /// Catches up, if no more than one page of the space was missed: the usual case. Returns whether it did.
    #[inline(always)]
    fn catch_up_page(&self, state: &CpuState) -> bool {
        let published = &state.published;
        // Relaxed here and below: this CPU wrote it.
        let kernel = Generation(published.kernel.load(Ordering::Relaxed));
        let active = published.active.load(Ordering::Relaxed);
        // SAFETY: as in `catch_up_domains`.
        let Some(domain) = (unsafe { active.as_ref() }) else { return false };
        if kernel == Generation::NONE || kernel < self.kernel.log.newest() {
            return false;
        }
        let from = Generation(published.space.load(Ordering::Relaxed));
        let to = domain.log.newest();
        let Some(page) = self.single_page(domain, from, to) else { return false };
        self.flush_single(state, page);
        self.publish(&published.space, from, to);
        true
    }

    /// Catches up with each domain used by the CPU.
    #[inline(never)]
    fn catch_up_domains(&self, pin: &CpuPin) {
        let state = self.state(pin.cpu());
        let published = &state.published;
        // Relaxed, here and below: this CPU wrote the words.
        let kernel = Generation(published.kernel.load(Ordering::Relaxed));
        // A CPU not online has no kernel generation to keep up with. In the middle of `cpu_online`,
        // the CPU is a member without a published generation. It is then served here, since a
        // waiter that has interrupted `cpu_online` cannot wait for its end. Relaxed: the CPU wrote
        // its own membership.
        if kernel != Generation::NONE || self.kernel.members.contains(pin.cpu(), Ordering::Relaxed) {
            self.catch_up_from(kernel, state, &self.kernel);
        }
        let active = published.active.load(Ordering::Relaxed);
        // SAFETY: this CPU's slot holds a pointer only while the domain is active here, during
        // which `activate`'s caller keeps the domain alive. The switch clearing the slot does not
        // nest in this context (`activate`'s contract), and the pin keeps other contexts out.
        if let Some(domain) = unsafe { active.as_ref() } {
            self.catch_up_from(Generation(published.space.load(Ordering::Relaxed)), state, domain);
        }
    }

    /// Flushes for the generations of `domain` not published in `state`, the executing CPU's, and
    /// publishes them.
    #[inline]
    pub(crate) fn catch_up(&self, state: &CpuState, domain: &Domain) {
        // Relaxed: this CPU wrote the word.
        let from = Generation(state.seen(domain.kind).load(Ordering::Relaxed));
        self.catch_up_from(from, state, domain);
    }

    /// Catches up from the published generation `from`.
    #[inline]
    fn catch_up_from(&self, from: Generation, state: &CpuState, domain: &Domain) {
        let to = domain.log.newest();
        if from < to {
            self.catch_up_between(state, domain, from, to);
        } else {
            self.fault.nothing_missed(state.seen(domain.kind));
        }
    }

    // Not inlined, so a CPU up to date saves no registers for the call. The rare cases are a call
    // of their own for the same reason.
    #[inline(never)]
    fn catch_up_between(&self, state: &CpuState, domain: &Domain, from: Generation, to: Generation) {
        match self.single_page(domain, from, to) {
            // Calls nothing, and therefore saves no registers.
            Some(page) => {
                self.flush_single(state, page);
                self.publish(state.seen(domain.kind), from, to);
            }
            None => self.catch_up_slowly(state, domain, from, to),
        }
    }

    /// Returns the page to flush if a single generation was missed, with a change of a single page.
    /// Needs no second reading of the log.
    #[inline]
    fn single_page(&self, domain: &Domain, from: Generation, to: Generation) -> Option<PageRange> {
        // With nothing seen, the missed generation is the first, which the log does not contain.
        if to.0.wrapping_sub(from.0) != 1 || !self.fault.may_flush_singly() {
            return None;
        }
        // A threshold of 0 flushes everything.
        domain.log.read_pages(to).filter(|range| range.pages() == 1 && self.threshold() > 0)
    }

    #[inline]
    fn flush_single(&self, state: &CpuState, page: PageRange) {
        self.tlb.flush_page(page.start(), page.size());
        count_pages(state, 1);
    }

    #[inline(never)]
    fn catch_up_slowly(&self, state: &CpuState, domain: &Domain, from: Generation, to: Generation) {
        let seen = state.seen(domain.kind);
        let flush = |from, to| self.flush_between(state, domain, from, to);
        self.fault.flush_then_publish(from, to, flush, || self.publish(seen, from, to));
    }

    /// Tells waiters of the flushes for everything up to `generation`, by the CPU, which had
    /// published `from`.
    #[inline]
    fn publish(&self, seen: &AtomicU64, from: Generation, generation: Generation) {
        // Release pairs with the waiters' Acquire in `satisfies`: the flushes happened before. The
        // result is the maximum: a nested handler may have published a newer generation since the
        // read of the generations, and publishing an older value would leave its waiters without an
        // answer for ever.
        self.fault.publish(seen, generation, || {
            if seen.compare_exchange(from.0, generation.0, Ordering::Release, Ordering::Relaxed).is_err() {
                seen.fetch_max(generation.0, Ordering::Release);
            }
        });
    }

    /// Catches up to `generation` if the executing CPU itself recorded the last `generations` of
    /// them. If the CPU has missed nothing before, the log need not be read.
    // Always inlined, like `announce`.
    #[inline(always)]
    pub(crate) fn catch_up_appended(
        &self,
        state: &CpuState,
        domain: &Domain,
        generation: Generation,
        generations: u64,
        appended: Appended<'_>,
    ) {
        let seen = state.seen(domain.kind);
        let pages = match appended {
            Appended::One(Scope::Pages(range)) => range.pages(),
            Appended::One(_) | Appended::Logged => return self.catch_up(state, domain),
            Appended::Ranges(ranges) => ranges.iter().map(|range| range.pages()).sum(),
        };
        // Relaxed: this CPU wrote the word. A handler nested since the append has advanced it.
        let before = Generation(seen.load(Ordering::Relaxed));
        if before.0 + generations != generation.0 || pages > self.threshold() {
            return self.catch_up(state, domain);
        }
        // Not by `flush_then_publish`: with a closure here, a wait for another CPU costs 40 instructions more.
        if self.fault.publishes_first() {
            self.publish(seen, before, generation);
        }
        if self.fault.flushes() {
            match appended {
                Appended::One(Scope::Pages(range)) => self.flush_pages(range),
                Appended::One(_) | Appended::Logged => {}
                Appended::Ranges(ranges) => ranges.iter().for_each(|&range| self.flush_pages(range)),
            }
            count_pages(state, pages);
        }
        self.publish(seen, before, generation);
    }

    #[inline]
    fn flush_pages(&self, range: PageRange) {
        // The first page by itself: usually it is the only page.
        self.tlb.flush_page(range.start(), range.size());
        if range.pages() > 1 {
            range.iter().skip(1).for_each(|page| self.tlb.flush_page(page, range.size()));
        }
    }

    fn flush_between(&self, state: &CpuState, domain: &Domain, from: Generation, to: Generation) {
        let counters = &state.counters;
        let flush = self.plan(state, domain, from, to);
        if matches!(flush, Flush::Pages) {
            if let Some(pages) = self.replay(domain, from, to) {
                return count_pages(state, pages);
            }
            counters.log_misses.add(1);
        }
        counters.full_flushes.add(1);
        match (flush, domain.kind) {
            (Flush::NonGlobal, _) | (_, Kind::Space) => self.tlb.flush_non_global(),
            (_, Kind::Kernel) => self.tlb.flush_all(),
        }
    }

    /// Decides how to flush for the generations after `from`, up to `to`.
    fn plan(&self, state: &CpuState, domain: &Domain, from: Generation, to: Generation) -> Flush {
        let threshold = self.threshold();
        let mut pages: u64 = 0;
        let mut non_global = 0;
        if from == Generation::NONE {
            return Flush::Domain;
        }
        if self.fault.is_overrun(to.0 - from.0) {
            state.counters.log_misses.add(1);
            return Flush::Domain;
        }
        for generation in from.0 + 1..=to.0 {
            match self.logged(domain, Generation(generation)) {
                Some(Scope::Pages(range)) => pages = pages.saturating_add(range.pages()),
                Some(Scope::NonGlobal) => non_global += 1,
                Some(Scope::Domain | Scope::Everything) => return Flush::Domain,
                None if self.fault.drops_lost_entries() => {}
                None => {
                    state.counters.log_misses.add(1);
                    return Flush::Domain;
                }
            }
            if pages > threshold {
                return Flush::Domain;
            }
        }
        match (non_global, pages) {
            (0, _) => Flush::Pages,
            (_, 0) => Flush::NonGlobal,
            // The pages may be global.
            _ => Flush::Domain,
        }
    }

    /// Flushes page by page, reading the log a second time: the log is not copied to the stack, and
    /// may have been overrun since. Returns the number of pages, or `None` if an entry was gone.
    fn replay(&self, domain: &Domain, from: Generation, to: Generation) -> Option<u64> {
        let mut pages = 0;
        for generation in from.0 + 1..=to.0 {
            match self.logged(domain, Generation(generation)) {
                Some(Scope::Pages(range)) => {
                    self.flush_pages(range);
                    pages += range.pages();
                }
                _ if self.fault.drops_lost_entries() => {}
                _ => return None,
            }
        }
        Some(pages)
    }
}

#[inline]
fn count_pages(state: &CpuState, pages: u64) {
    state.counters.partial_flushes.add(1);
    state.counters.pages_flushed.add(pages);
}
