//! One mechanism of the protocol broken on purpose, to show that the tests would notice.

#[cfg(feature = "fault-injection")]
use core::sync::atomic::{AtomicU8, Ordering};

/// A mistake to make; each was made by some kernel, or tempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fault {
    /// Publish generations without flushing.
    SkipFlush = 1,
    /// Publish a generation before flushing for it.
    AcknowledgeFirst,
    /// Clear the pending word after the generations were read.
    ClearPendingLate,
    /// Skip the generations that the log no longer holds.
    DropOnOverrun,
    /// Read the generations before ceasing to be lazy.
    ReadGenerationFirst,
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
}

/// The injected fault. Not one of loom's atomics: it is set before a model's threads start.
#[cfg(feature = "fault-injection")]
pub(crate) struct FaultCell(AtomicU8);

#[cfg(feature = "fault-injection")]
impl FaultCell {
    pub(crate) const fn new() -> FaultCell {
        FaultCell(AtomicU8::new(0))
    }

    /// Relaxed: set up before what it breaks runs.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.0.store(fault.map_or(0, |fault| fault as u8), Ordering::Relaxed);
    }

    pub(crate) fn is(&self, fault: Fault) -> bool {
        self.0.load(Ordering::Relaxed) == fault as u8
    }
}
