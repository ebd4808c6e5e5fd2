//! Injected faults: each breaks one mechanism of the protocol, to show that the tests notice.
//!
//! The protocol does not ask for faults. It runs its steps through the fault points ([`points`]).

mod points;

#[cfg(feature = "fault-injection")]
use core::sync::atomic::{AtomicU8, Ordering};

#[cfg(feature = "fault-injection")]
use topomem_percpu::AtomicCpuSet;
use topomem_percpu::CpuId;

/// A mistake to inject. Each was made by some kernel, or is tempting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[cfg_attr(
    not(feature = "fault-injection"),
    allow(dead_code, reason = "some are asked for by the cell only"),
    allow(unreachable_pub, reason = "public with the feature only")
)]
pub enum Fault {
    /// Publish generations without flushing.
    SkipFlush = 1,
    /// Publish a generation before flushing for it.
    AcknowledgeFirst,
    /// Clear the pending word after the generations were read.
    ClearPendingLate,
    /// Skip generations overwritten in the log, or not yet written.
    DropOnOverrun,
    /// Read the generations before leaving laziness, with some time in between.
    ReadGenerationFirst,
    /// Join a domain, or leave laziness, without the barrier before the read of the generation.
    SkipBarrier,
    /// Let an interrupted handler publish an older generation over a newer.
    PublishBackwards,
    /// Join a domain with the last domain's generation still published.
    KeepSeen,
    /// Skip the second look after registering a waker.
    RegisterBlindly,
    /// Halt without looking again.
    HaltBlindly,
    /// Publish a generation at once, and flush for it with the next generation.
    FlushLater,
    /// Come online with translations from before.
    OnlineWithoutFlush,
    /// Claim generations and never write their entries. Not a mistake, but the picture of a sender
    /// stopped in between: the protocol may not depend on the entry.
    LeaveUnwritten,
    /// Answer with a flag for each CPU, reset by the next sender, instead of a generation.
    OneFlag,
    /// Acknowledge a further generation if an interrupt finds no work.
    CountInterrupts,
    /// Skip lazy CPUs even if tables are freed.
    SpareLazy,
    /// Wait without serving the CPU's own requests.
    WaitWithoutPolling,
    /// Allocate memory in the handler.
    AllocateInHandler,
    /// Report no unresponsive CPU.
    NeverReport,
    /// Count a reported CPU as done.
    GiveUp,
    /// Issue an invalidation of a space only after all invalidations of the kernel's domain are
    /// done.
    OneAtATime,
    /// Return to a left space without comparing generations.
    KeepStaleAsid,
    /// Give an ASID to another space with the old translations still present.
    ReuseUnflushed,
    /// Flush single pages if tables of the kernel were freed. Paging-structure caches of ASIDs not
    /// current then still lead to the tables.
    MissOtherAsids,
    /// Skip the wait for the arrival of a broadcast.
    BroadcastUnsynced,
    /// Claim a change's generation at the announcement, after the release of the page-table claim.
    RecordUnlocked,
    /// Complete at once a change without anything to change, whatever is pending.
    OwnChangeOnly,
    /// Count as busy before flushing the invalidations skipped while lazy. A nested handler then
    /// learns wrongly of nothing to leave.
    BusyBeforeCatchingUp,
}

/// The injected fault. Not an atomic of loom's: a test sets it before the model's threads start.
#[cfg(feature = "fault-injection")]
pub(crate) struct FaultCell {
    fault: AtomicU8,
    /// The flags of [`Fault::OneFlag`], and the CPUs abandoned by [`Fault::GiveUp`].
    answered: AtomicCpuSet,
}

#[cfg(feature = "fault-injection")]
impl FaultCell {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> FaultCell {
        FaultCell { fault: AtomicU8::new(0), answered: AtomicCpuSet::new() }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> FaultCell {
        FaultCell { fault: AtomicU8::new(0), answered: AtomicCpuSet::new() }
    }

    /// Relaxed: set before the code under test runs.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.fault.store(fault.map_or(0, |fault| fault as u8), Ordering::Relaxed);
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault.load(Ordering::Relaxed) == fault as u8
    }

    /// Resets the flag of `cpu`, which is being asked.
    pub(crate) fn ask(&self, cpu: CpuId) {
        if self.is(Fault::OneFlag) {
            self.answered.remove(cpu, Ordering::AcqRel);
        }
    }

    /// Sets the flag of `cpu`, which has flushed. May allocate.
    pub(crate) fn answer(&self, cpu: CpuId) {
        if self.is(Fault::OneFlag) {
            self.answered.insert(cpu, Ordering::AcqRel);
        }
        if self.is(Fault::AllocateInHandler) {
            core::hint::black_box(alloc::boxed::Box::new(cpu));
        }
    }

    /// Notes the report of `cpu`.
    pub(crate) fn give_up(&self, cpu: CpuId) {
        if self.is(Fault::GiveUp) {
            self.answered.insert(cpu, Ordering::AcqRel);
        }
    }

    /// Returns whether `cpu` counts as done regardless of its published generation; `None` if the
    /// published generation decides.
    pub(crate) fn answered(&self, cpu: CpuId) -> Option<bool> {
        let answered = || self.answered.contains(cpu, Ordering::Acquire);
        if self.is(Fault::OneFlag) {
            return Some(answered());
        }
        (self.is(Fault::GiveUp) && answered()).then_some(true)
    }
}

/// The absence of faults, without code.
#[cfg(not(feature = "fault-injection"))]
pub(crate) struct FaultCell;

#[cfg(not(feature = "fault-injection"))]
#[allow(clippy::unused_self)]
impl FaultCell {
    pub(crate) const fn new() -> FaultCell {
        FaultCell
    }

    #[inline(always)]
    const fn is(&self, _: Fault) -> bool {
        false
    }

    #[inline(always)]
    pub(crate) const fn ask(&self, _: CpuId) {}

    #[inline(always)]
    pub(crate) const fn answer(&self, _: CpuId) {}

    #[inline(always)]
    pub(crate) const fn give_up(&self, _: CpuId) {}

    #[inline(always)]
    pub(crate) const fn answered(&self, _: CpuId) -> Option<bool> {
        None
    }
}
