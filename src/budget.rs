//! How much work one call may do that has no bound of its own.

/// Units of work that are left: about the time that it takes to free a frame.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
}

impl Budget {
    /// So many units.
    pub const fn of(units: u64) -> Budget {
        Budget { left: units }
    }

    /// No bound.
    pub const fn unlimited() -> Budget {
        Budget { left: u64::MAX }
    }

    /// Has all of it been used?
    pub const fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Uses `units`, or what is left.
    pub const fn spend(&mut self, units: u64) {
        self.left = self.left.saturating_sub(units);
    }

    /// Lets `work` use up to `units` of it, and returns what `work` does.
    pub fn within<T>(&mut self, units: u64, work: impl FnOnce(&mut Budget) -> T) -> T {
        let mut part = Budget::of(units.min(self.left));
        self.left -= part.left;
        let result = work(&mut part);
        self.left += part.left;
        result
    }

    /// Lets `work` use up to half of it: the first part of work whose second costs as much.
    pub fn within_half<T>(&mut self, work: impl FnOnce(&mut Budget) -> T) -> T {
        self.within(self.left.div_ceil(2), work)
    }
}
