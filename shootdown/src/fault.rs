//! One mechanism of the protocol broken on purpose, to show that the tests would notice.

#[cfg(feature = "fault-injection")]
use core::sync::atomic::{AtomicU8, Ordering};

use topomem_percpu::CpuId;
#[cfg(feature = "fault-injection")]
use topomem_percpu::{AtomicCpuSet, sync};

/// A mistake to make; each was made by some kernel, or tempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[cfg_attr(
    not(feature = "fault-injection"),
    allow(dead_code, reason = "some are asked for by the cell only")
)]
pub enum Fault {
    /// Publish generations without flushing.
    SkipFlush = 1,
    /// Publish a generation before flushing for it.
    AcknowledgeFirst,
    /// Clear the pending word after the generations were read.
    ClearPendingLate,
    /// Skip the generations that the log no longer holds, or does not hold yet.
    DropOnOverrun,
    /// Read the generations before ceasing to be lazy, some time before.
    ReadGenerationFirst,
    /// Join a domain, or cease to be lazy, without the barrier before the generation is read.
    SkipBarrier,
    /// Let an interrupted handler publish an older generation over a newer one.
    PublishBackwards,
    /// Join a domain with what was seen of the last one still published.
    KeepSeen,
    /// Don't look again after registering a waker.
    RegisterBlindly,
    /// Publish a generation at once, and flush for it when the next one comes.
    FlushLater,
    /// Come online with the translations from before.
    OnlineWithoutFlush,
    /// Claim generations and never write their entries. No mistake, but what a sender looks like
    /// that was stopped in between: nothing may depend on it.
    LeaveUnwritten,
    /// Answer by a flag for each CPU, which the next sender resets, instead of a generation.
    OneFlag,
    /// Acknowledge one more generation where an interrupt finds nothing to do.
    CountInterrupts,
    /// Don't interrupt lazy CPUs where tables are freed either.
    SpareLazy,
    /// Wait without serving the own queue.
    WaitWithoutPolling,
    /// Allocate memory in the handler.
    AllocateInHandler,
    /// Report no CPU that doesn't answer.
    NeverReport,
    /// Count a CPU that was reported as done.
    GiveUp,
    /// Issue an invalidation of a space only when all of the kernel's are done.
    OneAtATime,
    /// Return to a space that was left without comparing generations.
    KeepStaleAsid,
    /// Give an ASID to another space with its translations still there.
    ReuseUnflushed,
    /// Flush single pages where tables of the kernel were freed, which leaves the ways to them
    /// in the paging-structure caches of the ASIDs that are not current.
    MissOtherAsids,
    /// Don't wait for a broadcast to arrive.
    BroadcastUnsynced,
    /// Claim a change's generation when it is announced, after its page-table claim was released.
    RecordUnlocked,
    /// Complete at once where there was nothing to change, whatever is pending.
    OwnChangeOnly,
    /// Count as busy from before what was missed while lazy is flushed: a handler that nests in
    /// between is told that there is nothing to leave.
    BusyBeforeCatchingUp,
}

/// The injected fault. Not one of loom's atomics: it is set before a model's threads start.
#[cfg(feature = "fault-injection")]
pub(crate) struct FaultCell {
    fault: AtomicU8,
    /// The flags of [`Fault::OneFlag`], and the CPUs that [`Fault::GiveUp`] has given up.
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

    /// Relaxed: set up before what it breaks runs.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.fault.store(fault.map_or(0, |fault| fault as u8), Ordering::Relaxed);
    }

    pub(crate) fn is(&self, fault: Fault) -> bool {
        self.fault.load(Ordering::Relaxed) == fault as u8
    }

    /// `cpu` is asked: its flag is reset.
    pub(crate) fn ask(&self, cpu: CpuId) {
        if self.is(Fault::OneFlag) {
            self.answered.remove(cpu, sync::atomic::Ordering::AcqRel);
        }
    }

    /// `cpu` has flushed: its flag is set. May allocate.
    pub(crate) fn answer(&self, cpu: CpuId) {
        if self.is(Fault::OneFlag) {
            self.answered.insert(cpu, sync::atomic::Ordering::AcqRel);
        }
        if self.is(Fault::AllocateInHandler) {
            core::hint::black_box(alloc::boxed::Box::new(cpu));
        }
    }

    /// `cpu` was reported.
    pub(crate) fn give_up(&self, cpu: CpuId) {
        if self.is(Fault::GiveUp) {
            self.answered.insert(cpu, sync::atomic::Ordering::AcqRel);
        }
    }

    /// Is `cpu` done, whatever it has published? `None`: that decides.
    pub(crate) fn answered(&self, cpu: CpuId) -> Option<bool> {
        let answered = || self.answered.contains(cpu, sync::atomic::Ordering::Acquire);
        if self.is(Fault::OneFlag) {
            return Some(answered());
        }
        (self.is(Fault::GiveUp) && answered()).then_some(true)
    }
}

/// No fault, and no code for one.
#[cfg(not(feature = "fault-injection"))]
pub(crate) struct FaultCell;

#[cfg(not(feature = "fault-injection"))]
#[allow(clippy::unused_self)]
impl FaultCell {
    pub(crate) const fn new() -> FaultCell {
        FaultCell
    }

    #[inline(always)]
    pub(crate) const fn is(&self, _: Fault) -> bool {
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
