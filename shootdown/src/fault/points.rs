//! The fault points: the steps of the protocol that an injected fault leaves out, reorders or replaces.
//!
//! Each function is named after the step that it runs, and takes the step as a closure, or the step's inputs. Without
//! the feature `fault-injection`, [`FaultCell::is`] is constant, and a function is its step and nothing else.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering, fence};
use topomem_percpu::sync::hint;
use topomem_percpu::{CpuId, CpuPin};

use super::{Fault, FaultCell};
use crate::domain::Kind;
use crate::domain::log::{LOG_LEN, Log};
use crate::{Domain, Generation, Request, Scope, Shootdown, Tables, Tlb};

/// Number of turns by which a fault gives remote CPUs time to act in between: about a millisecond.
const WINDOW: u32 = if cfg!(any(loom, miri)) { 0 } else { 20_000 };

fn wait_in_gap() {
    (0..WINDOW).for_each(|_| hint::spin_loop());
}

/// Recording and announcing.
impl FaultCell {
    /// Appends a change to the log. [`Fault::LeaveUnwritten`]: claims the generation only.
    #[inline(always)]
    pub(crate) fn append(&self, log: &Log, scope: Scope, tables: Tables) -> Generation {
        if self.is(Fault::LeaveUnwritten) { log.claim() } else { log.append(scope, tables) }
    }

    /// Claims a change's generation while the caller holds the lock of the entries. [`Fault::RecordUnlocked`]: claims
    /// none; [`FaultCell::announced`] does.
    #[inline(always)]
    pub(crate) fn claim_locked(&self, append: impl FnOnce() -> Generation) -> Generation {
        if self.is(Fault::RecordUnlocked) { Generation::NONE } else { append() }
    }

    /// Returns the generation to announce: the claimed generation. [`Fault::RecordUnlocked`]: claims the generation now.
    #[inline(always)]
    pub(crate) fn announced(
        &self,
        claimed: Generation,
        log: &Log,
        scope: Scope,
        tables: Tables,
    ) -> Generation {
        if self.is(Fault::RecordUnlocked) {
            wait_in_gap();
            log.append(scope, tables)
        } else {
            claimed
        }
    }

    /// Returns whether a batch records its changes when it is issued: never. [`Fault::RecordUnlocked`]: always.
    #[inline(always)]
    pub(crate) fn records_at_issue(&self) -> bool {
        self.is(Fault::RecordUnlocked)
    }

    /// Returns whether no change of a domain is pending: `none` tells. [`Fault::OwnChangeOnly`]: claims so.
    #[inline(always)]
    pub(crate) fn nothing_is_pending(&self, none: bool) -> bool {
        none || self.is(Fault::OwnChangeOnly)
    }

    /// Returns the tables of a request that freed tables: lazy CPUs are interrupted, too. [`Fault::SpareLazy`]: says
    /// that the tables were kept.
    #[inline(always)]
    pub(crate) fn freed(&self) -> Tables {
        if self.is(Fault::SpareLazy) { Tables::Kept } else { Tables::Freed }
    }

    /// Begins an issue: nothing to wait for. [`Fault::OneAtATime`]: waits for the invalidations of the kernel's domain.
    #[inline(always)]
    pub(crate) fn begin_issue<T: Tlb>(&self, queue: &Shootdown<T>, pin: &CpuPin, domain: &Domain) {
        if self.is(Fault::OneAtATime) && domain.kind == Kind::Space {
            let all = Request { generation: queue.kernel.generation(), tables: Generation::NONE };
            while !queue.is_done(&queue.kernel, all) {
                queue.poll(pin);
                hint::spin_loop();
            }
        }
    }

    /// Waits for the arrival of broadcasts. [`Fault::BroadcastUnsynced`]: does not.
    #[inline(always)]
    pub(crate) fn broadcast_sync(&self, sync: impl FnOnce()) {
        if !self.is(Fault::BroadcastUnsynced) {
            sync();
        }
    }
}

/// Handling.
impl FaultCell {
    /// Clears the pending word, then catches up. [`Fault::ClearPendingLate`]: the other way round.
    #[inline(always)]
    pub(crate) fn clear_then_catch_up(&self, clear: impl FnOnce(), catch_up: impl FnOnce()) {
        if self.is(Fault::ClearPendingLate) {
            catch_up();
            clear();
        } else {
            clear();
            catch_up();
        }
    }

    /// Flushes the generations after `from` up to `to`, then publishes. [`Fault::AcknowledgeFirst`]: publishes before,
    /// too. [`Fault::SkipFlush`]: does not flush. [`Fault::FlushLater`]: flushes the generation of the last call.
    #[inline(always)]
    pub(crate) fn flush_then_publish(
        &self,
        from: Generation,
        to: Generation,
        flush: impl FnOnce(Generation, Generation),
        publish: impl Fn(),
    ) {
        if self.is(Fault::AcknowledgeFirst) {
            publish();
        }
        if self.is(Fault::FlushLater) {
            flush(Generation(from.0.saturating_sub(1)), from);
        } else if !self.is(Fault::SkipFlush) {
            flush(from, to);
        }
        publish();
    }

    /// Returns whether a generation is published before its flush: never. [`Fault::AcknowledgeFirst`]: always.
    #[inline(always)]
    pub(crate) fn publishes_first(&self) -> bool {
        self.is(Fault::AcknowledgeFirst)
    }

    /// Returns whether missed translations are flushed: always. [`Fault::SkipFlush`]: never.
    #[inline(always)]
    pub(crate) fn flushes(&self) -> bool {
        !self.is(Fault::SkipFlush)
    }

    /// Returns whether a single missed page may be flushed by itself: always. A fault of
    /// [`FaultCell::flush_then_publish`]: never, since that function is not on the way.
    #[inline(always)]
    pub(crate) fn may_flush_singly(&self) -> bool {
        !self.is(Fault::AcknowledgeFirst) && !self.is(Fault::FlushLater) && !self.is(Fault::SkipFlush)
    }

    /// Publishes a generation. [`Fault::PublishBackwards`]: over a newer one, too.
    #[inline(always)]
    pub(crate) fn publish(&self, seen: &AtomicU64, generation: Generation, publish: impl FnOnce()) {
        if self.is(Fault::PublishBackwards) {
            seen.store(generation.0, Ordering::Release);
        } else {
            publish();
        }
    }

    /// Ends the look at a domain without a missed generation. [`Fault::CountInterrupts`]: publishes a further one.
    #[inline(always)]
    pub(crate) fn nothing_missed(&self, seen: &AtomicU64) {
        if self.is(Fault::CountInterrupts) {
            seen.fetch_add(1, Ordering::Release);
        }
    }

    /// Returns whether the log cannot have the last `missed` generations. [`Fault::DropOnOverrun`]: never.
    #[inline(always)]
    pub(crate) fn is_overrun(&self, missed: u64) -> bool {
        missed > LOG_LEN && !self.is(Fault::DropOnOverrun)
    }

    /// Returns whether a generation without a log entry needs no flush: never. [`Fault::DropOnOverrun`]: always.
    #[inline(always)]
    pub(crate) fn drops_lost_entries(&self) -> bool {
        self.is(Fault::DropOnOverrun)
    }
}

/// Switching, laziness, ASIDs and coming online.
impl FaultCell {
    /// Takes back the generation published in the last domain. [`Fault::KeepSeen`]: leaves the generation.
    #[inline(always)]
    pub(crate) fn forget_published(&self, forget: impl FnOnce()) {
        if !self.is(Fault::KeepSeen) {
            forget();
        }
    }

    /// Issues the full barrier of a CPU that joins or leaves laziness. [`Fault::SkipBarrier`]: does not.
    #[inline(always)]
    pub(crate) fn join_barrier(&self) {
        if !self.is(Fault::SkipBarrier) {
            fence(Ordering::SeqCst);
        }
    }

    /// Begins to end the laziness of the pinned CPU. Returns false if nothing is left to do, since the CPU was not lazy.
    /// [`Fault::ReadGenerationFirst`]: reads the generations while the CPU is lazy, and makes it busy some time later.
    /// [`Fault::BusyBeforeCatchingUp`]: makes the CPU busy at once.
    #[inline(always)]
    pub(crate) fn cease_to_be_lazy<T: Tlb>(&self, queue: &Shootdown<T>, pin: &CpuPin) -> bool {
        let state = queue.state(pin.cpu());
        if self.is(Fault::ReadGenerationFirst) {
            queue.catch_up_all(pin);
            wait_in_gap();
            state.set_busy();
            return false;
        }
        let was_lazy = state.cease_to_be_lazy();
        if was_lazy && self.is(Fault::BusyBeforeCatchingUp) {
            state.set_busy();
        }
        was_lazy
    }

    /// Flushes a CPU that comes online. [`Fault::OnlineWithoutFlush`]: does not.
    #[inline(always)]
    pub(crate) fn flush_online(&self, flush: impl FnOnce()) {
        if !self.is(Fault::OnlineWithoutFlush) {
            flush();
        }
    }

    /// Returns whether ASIDs other than the current ASID need a flush: `concerned` tells. [`Fault::MissOtherAsids`]:
    /// never.
    #[inline(always)]
    pub(crate) fn concerns_other_asids(&self, concerned: bool) -> bool {
        concerned && !self.is(Fault::MissOtherAsids)
    }

    /// Returns whether a CPU keeps the translations of an ASID that are of its domain: `is_clean` compares
    /// generations. [`Fault::KeepStaleAsid`]: always.
    #[inline(always)]
    pub(crate) fn keeps_own(&self, is_clean: impl FnOnce() -> bool) -> bool {
        self.is(Fault::KeepStaleAsid) || is_clean()
    }

    /// Returns whether a CPU keeps the translations of an ASID that are of another domain: never.
    /// [`Fault::ReuseUnflushed`]: always.
    #[inline(always)]
    pub(crate) fn keeps_others(&self) -> bool {
        self.is(Fault::ReuseUnflushed)
    }
}

/// Waiting.
impl FaultCell {
    /// Serves the waiting CPU's own requests. [`Fault::WaitWithoutPolling`]: does not.
    #[inline(always)]
    pub(crate) fn serve_own(&self, serve: impl FnOnce()) {
        if !self.is(Fault::WaitWithoutPolling) {
            serve();
        }
    }

    /// Reports an unresponsive CPU. [`Fault::NeverReport`]: does not. [`Fault::GiveUp`]: counts the CPU as done.
    #[inline(always)]
    pub(crate) fn report(&self, cpu: CpuId, report: impl FnOnce()) {
        if !self.is(Fault::NeverReport) {
            self.give_up(cpu);
            report();
        }
    }

    /// Looks whether the awaited CPU is still late, after a waker was registered. [`Fault::RegisterBlindly`]: does not
    /// look.
    #[inline(always)]
    pub(crate) fn look_after_registering(&self, is_late: impl FnOnce() -> bool) -> bool {
        self.is(Fault::RegisterBlindly) || is_late()
    }

    /// Looks for a reason not to halt, after the late CPUs were named. [`Fault::HaltBlindly`]: does not look.
    #[inline(always)]
    pub(crate) fn look_before_halting(&self, has_reason: impl FnOnce() -> bool) -> bool {
        !self.is(Fault::HaltBlindly) && has_reason()
    }
}
