//! The receiver's side: clear the pending word, read the generations, flush, publish.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::CpuState;
use crate::domain::{Domain, Kind};
use crate::log::LOG_LEN;
use crate::{Fault, Generation, PageRange, Scope, Shootdown, Tlb, WakersDue};

/// How to catch up with the generations that were missed.
enum Flush {
    /// Page by page, as the log says.
    Pages,
    /// Everything that is not global.
    NonGlobal,
    /// Everything that the domain has.
    Domain,
}

/// What the announcing CPU has itself appended to a domain's log.
#[derive(Clone, Copy)]
pub(crate) enum Appended<'a> {
    /// One scope.
    One(Scope),
    /// These ranges, of one generation each or merged.
    Ranges(&'a [PageRange]),
    /// What only the log tells.
    Logged,
}

impl<T: Tlb> Shootdown<T> {
    /// The interrupt handler's body, with interrupts masked or not; it may interrupt anything.
    ///
    /// Takes no lock and allocates nothing. Bounded: for each of two domains at most 32 log
    /// entries are read twice, and at most [`Shootdown::threshold`] pages are flushed singly or
    /// the TLB once. Spurious, late and nested calls are harmless: what there is to do follows
    /// from generations, not from how often this is called.
    ///
    /// The answer says whether somebody waits for a waker, so that the kernel can arrange for
    /// [`Shootdown::wake_completed`] to be called soon, outside interrupt handlers.
    ///
    /// Also if nothing was left to do, because [`Shootdown::poll`] or a waiter served it before: the
    /// interrupt still comes, and so tells of what they have completed.
    #[inline]
    pub fn on_ipi(&self, pin: &CpuPin) -> WakersDue {
        self.state(pin.cpu()).counters.ipis_received.add(1);
        self.serve(pin);
        self.wakers_due()
    }

    /// Serves what an interrupt on its way, or masked, asks for. One load where there is
    /// nothing. For spin loops: [`Platform::relax`] is where a kernel calls it.
    ///
    /// [`Platform::relax`]: topomem_percpu::Platform::relax
    #[inline]
    pub fn poll(&self, pin: &CpuPin) {
        let state = self.state(pin.cpu());
        // Relaxed: only a hint to swap, which then synchronises.
        if state.mailbox.pending.load(Ordering::Relaxed) {
            self.serve_polled(pin);
        }
    }

    // Apart, so that the loops that poll save no registers for it.
    #[inline(never)]
    fn serve_polled(&self, pin: &CpuPin) {
        self.state(pin.cpu()).counters.polls_served.add(1);
        self.serve(pin);
    }

    #[inline]
    fn serve(&self, pin: &CpuPin) {
        let pending = &self.state(pin.cpu()).mailbox.pending;
        if self.broken(Fault::ClearPendingLate) {
            self.catch_up_all(pin);
            pending.swap(false, Ordering::AcqRel);
            return;
        }
        // First: a sender from here on finds it clear and interrupts again. Acquire: the
        // generations of the senders before are read below; see `Mailbox::pending`.
        pending.swap(false, Ordering::AcqRel);
        self.catch_up_all(pin);
        self.fault.answer(pin.cpu());
    }

    /// Flushes for whatever this CPU has not seen of the domains that it uses.
    #[inline]
    pub(crate) fn catch_up_all(&self, pin: &CpuPin) {
        let state = self.state(pin.cpu());
        let published = &state.published;
        // Relaxed here and below: this CPU wrote it.
        let kernel = Generation(published.kernel.load(Ordering::Relaxed));
        // Before a CPU is online it has no kernel generation to keep up. In the middle of
        // `cpu_online` it is a member that has published nothing: then it is served here, as a waiter
        // that has interrupted it cannot wait for its end. Relaxed: it wrote its membership.
        if kernel != Generation::NONE || self.kernel.members.contains(pin.cpu(), Ordering::Relaxed) {
            self.catch_up_from(kernel, state, &self.kernel);
        }
        let active = published.active.load(Ordering::Relaxed);
        // SAFETY: this CPU's slot holds a pointer only while the domain is active here, during
        // which `activate`'s caller keeps it alive; the switch that clears it does not nest in
        // us (`activate`'s contract), and the pin keeps other contexts out.
        if let Some(domain) = unsafe { active.as_ref() } {
            self.catch_up_from(Generation(published.space.load(Ordering::Relaxed)), state, domain);
        }
    }

    /// Flushes for the generations of `domain` that this CPU, whose `state` it is, has not
    /// published, and publishes.
    #[inline]
    pub(crate) fn catch_up(&self, state: &CpuState, domain: &Domain) {
        // Relaxed: this CPU wrote it.
        let from = Generation(state.seen(domain.kind).load(Ordering::Relaxed));
        self.catch_up_from(from, state, domain);
    }

    /// The same, `from` being what was published.
    #[inline]
    fn catch_up_from(&self, from: Generation, state: &CpuState, domain: &Domain) {
        let to = domain.log.newest();
        if from < to {
            self.catch_up_between(state, domain, from, to);
        } else if self.broken(Fault::CountInterrupts) {
            state.seen(domain.kind).fetch_add(1, Ordering::Release);
        }
    }

    // Apart from the callers, so that a CPU that is not behind saves no registers for it; and the
    // other cases apart from the usual one.
    #[inline(never)]
    fn catch_up_between(&self, state: &CpuState, domain: &Domain, from: Generation, to: Generation) {
        match self.single_page(domain, from, to) {
            // Calls nothing, so it saves no registers.
            Some(page) if !self.broken_flush() => {
                self.tlb.flush_page(page.start(), page.size());
                count_pages(state, 1);
                self.publish(state.seen(domain.kind), from, to);
            }
            _ => self.catch_up_slowly(state, domain, from, to),
        }
    }

    /// The page to flush if one generation was missed, which changed one page. Needs no second
    /// reading of the log.
    #[inline]
    fn single_page(&self, domain: &Domain, from: Generation, to: Generation) -> Option<PageRange> {
        // Where nothing was seen it is the first generation, which the log does not have.
        if to.0 - from.0 != 1 {
            return None;
        }
        // A threshold of 0 flushes everything.
        domain.log.read_pages(to).filter(|range| range.pages() == 1 && self.threshold() > 0)
    }

    /// Is a fault injected that concerns flushing?
    #[inline]
    fn broken_flush(&self) -> bool {
        self.broken(Fault::AcknowledgeFirst)
            || self.broken(Fault::FlushLater)
            || self.broken(Fault::SkipFlush)
    }

    #[inline(never)]
    fn catch_up_slowly(&self, state: &CpuState, domain: &Domain, from: Generation, to: Generation) {
        let seen = state.seen(domain.kind);
        if self.broken(Fault::AcknowledgeFirst) {
            self.publish(seen, from, to);
        }
        if self.broken(Fault::FlushLater) {
            self.flush_between(state, domain, Generation(from.0.saturating_sub(1)), from);
        } else if !self.broken(Fault::SkipFlush) {
            self.flush_between(state, domain, from, to);
        }
        self.publish(seen, from, to);
    }

    /// Tells waiters that this CPU, which had published `from`, has flushed for everything up to
    /// `generation`.
    #[inline]
    fn publish(&self, seen: &AtomicU64, from: Generation, generation: Generation) {
        // Release pairs with the waiters' Acquire: the flushes happened before. A maximum: a
        // handler that nested in us since we read the generations may have published a newer
        // one, and whoever waits for that one would never be answered again.
        if self.broken(Fault::PublishBackwards) {
            seen.store(generation.0, Ordering::Release);
        } else if seen.compare_exchange(from.0, generation.0, Ordering::Release, Ordering::Relaxed).is_err() {
            seen.fetch_max(generation.0, Ordering::Release);
        }
    }

    /// The same for generations up to `generation` where the executing CPU recorded the last
    /// `generations` of them itself: if it has missed nothing before, the log need not be read.
    // Always: as `announce`.
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
        // Relaxed: this CPU wrote it. A handler that nested since we appended has moved it on.
        let before = Generation(seen.load(Ordering::Relaxed));
        if before.0 + generations != generation.0 || pages > self.threshold() {
            return self.catch_up(state, domain);
        }
        if self.broken(Fault::AcknowledgeFirst) {
            self.publish(seen, before, generation);
        }
        if !self.broken(Fault::SkipFlush) {
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
        // The first by itself: mostly there is no other.
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
        if to.0 - from.0 > LOG_LEN && !self.broken(Fault::DropOnOverrun) {
            state.counters.log_misses.add(1);
            return Flush::Domain;
        }
        for generation in from.0 + 1..=to.0 {
            match self.logged(domain, Generation(generation)) {
                Some(Scope::Pages(range)) => pages = pages.saturating_add(range.pages()),
                Some(Scope::NonGlobal) => non_global += 1,
                Some(Scope::Domain | Scope::Everything) => return Flush::Domain,
                None if self.broken(Fault::DropOnOverrun) => {}
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

    /// Flushes page by page, reading the log once more: it is not copied to the stack, and may
    /// have been overrun since. Returns how many pages, or `None` where an entry was gone.
    fn replay(&self, domain: &Domain, from: Generation, to: Generation) -> Option<u64> {
        let mut pages = 0;
        for generation in from.0 + 1..=to.0 {
            match self.logged(domain, Generation(generation)) {
                Some(Scope::Pages(range)) => {
                    self.flush_pages(range);
                    pages += range.pages();
                }
                _ if self.broken(Fault::DropOnOverrun) => {}
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
