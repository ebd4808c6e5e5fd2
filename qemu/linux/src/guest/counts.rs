//! What changes cost the machine, counted.

use super::system::interrupts::Interrupts;
use super::system::traces::{Traced, Traces};
use crate::guest::error::GuestError;

/// Where the counts come from.
#[derive(Debug)]
pub(crate) struct Counters {
    interrupts: Interrupts,
    /// Where the kernel has them.
    traces: Option<Traces>,
}

/// Counts of some changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    interrupts: u64,
    traced: Option<Traced>,
}

impl Counters {
    /// Starts to count. What is counted becomes slower by it.
    pub(crate) fn start() -> Result<Self, GuestError> {
        Ok(Self { interrupts: Interrupts::open()?, traces: Traces::start()? })
    }

    /// What is traced at this moment, of all CPUs. Reading it may itself interrupt CPUs some time later: let them
    /// run before [`across`](Self::across).
    pub(crate) fn traced(&mut self) -> Result<Option<Traced>, GuestError> {
        Ok(self.traces.as_mut().map(Traces::counts).transpose()?)
    }

    /// What `work` costs, of all CPUs, and what is traced since `before`.
    pub(crate) fn across(
        &mut self,
        before: Option<Traced>,
        work: impl FnOnce() -> Result<(), GuestError>,
    ) -> Result<Counts, GuestError> {
        let received = self.interrupts.received()?;
        work()?;
        let interrupts = self.interrupts.received()?.saturating_sub(received);
        let traced = self.traced()?.zip(before).map(|(after, before)| after.since(before));
        Ok(Counts { interrupts, traced })
    }
}

impl Counts {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        let traced = [self.traced, other.traced].into_iter().flatten().reduce(Traced::plus);
        Self { interrupts: self.interrupts + other.interrupts, traced }
    }

    /// Each count with its name. A message is one write to the interrupt controller's command register: on up to
    /// eight CPUs that reaches any set of them.
    pub(crate) fn named(self) -> impl Iterator<Item = (&'static str, u64)> {
        let traced = self.traced.map(|Traced { messages, full, partial }| {
            [("ICR writes", messages), ("full flushes", full), ("partial flushes", partial)]
        });
        std::iter::once(("IPIs", self.interrupts)).chain(traced.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let counts = |interrupts, messages| Counts {
            interrupts,
            traced: Some(Traced { messages, full: 0, partial: 2 * messages }),
        };
        let sum = Counts::default().plus(counts(7, 1)).plus(counts(1, 0));
        let named: Vec<_> = sum.named().collect();
        assert_eq!(named, [("IPIs", 8), ("ICR writes", 1), ("full flushes", 0), ("partial flushes", 2)]);
        let untraced = Counts { interrupts: 3, traced: None };
        assert_eq!(untraced.named().collect::<Vec<_>>(), [("IPIs", 3)]);
    }
}
