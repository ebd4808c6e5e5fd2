//! What changes cost the machine, counted.

use crate::guest::error::GuestError;
use crate::guest::interrupts::Interrupts;
use crate::guest::traces::{Traced, Traces};

/// Where the counts come from.
#[derive(Debug)]
pub(crate) struct Counters {
    interrupts: Interrupts,
    /// Where the kernel has them.
    traces: Option<Traces>,
}

/// Counts so far, or of some changes.
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

    /// The counts of this moment, of all CPUs.
    pub(crate) fn now(&mut self) -> Result<Counts, GuestError> {
        let interrupts = self.interrupts.received()?;
        let traced = self.traces.as_mut().map(Traces::counts).transpose()?;
        Ok(Counts { interrupts, traced })
    }
}

impl Counts {
    /// What has happened since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        let traced = self.traced.zip(before.traced).map(|(after, before)| Traced {
            messages: after.messages.saturating_sub(before.messages),
            full: after.full.saturating_sub(before.full),
            partial: after.partial.saturating_sub(before.partial),
        });
        Self { interrupts: self.interrupts.saturating_sub(before.interrupts), traced }
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        let traced = [self.traced, other.traced].into_iter().flatten().reduce(|one, other| Traced {
            messages: one.messages + other.messages,
            full: one.full + other.full,
            partial: one.partial + other.partial,
        });
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
    fn differences_add_up() {
        let counts = |interrupts, messages| Counts {
            interrupts,
            traced: Some(Traced { messages, full: 0, partial: 2 * messages }),
        };
        let sum =
            Counts::default().plus(counts(9, 5).since(counts(2, 4))).plus(counts(4, 4).since(counts(3, 4)));
        let named: Vec<_> = sum.named().collect();
        assert_eq!(named, [("IPIs", 8), ("ICR writes", 1), ("full flushes", 0), ("partial flushes", 2)]);
        let untraced = Counts { interrupts: 3, traced: None };
        assert_eq!(untraced.named().collect::<Vec<_>>(), [("IPIs", 3)]);
        assert_eq!(untraced.since(untraced), Counts::default());
    }
}
