//! Bounds on the work of a call without a bound of its own.

/// Units of work left: each about the time to free a frame.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
}

impl Budget {
    /// Returns a budget of `units` units.
    pub(crate) const fn of(units: u64) -> Budget {
        Budget { left: units }
    }

    /// Returns a budget without a bound.
    pub(crate) const fn unlimited() -> Budget {
        Budget { left: u64::MAX }
    }

    /// Returns whether the budget is used up.
    pub(crate) const fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Uses `units`, or the rest of the budget.
    pub(crate) const fn spend(&mut self, units: u64) {
        self.left = self.left.saturating_sub(units);
    }

    /// Lets `work` use up to `units` of the budget, and returns the result of `work`.
    pub(crate) fn within<T>(&mut self, units: u64, work: impl FnOnce(&mut Budget) -> T) -> T {
        let mut part = Budget::of(units.min(self.left));
        self.left -= part.left;
        let result = work(&mut part);
        self.left += part.left;
        result
    }

    /// Lets `work` use up to half of the budget: for the first part of a task whose second part
    /// costs as much.
    pub(crate) fn within_half<T>(&mut self, work: impl FnOnce(&mut Budget) -> T) -> T {
        self.within(self.left.div_ceil(2), work)
    }
}
