//! Programs that several steps run: built when the first of them needs it.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::machines::kernel::{Kernel, Variant};
use crate::machines::sim;

/// The kernels and the simulation.
#[derive(Default)]
pub(super) struct Programs {
    kernel: Built<Kernel>,
    faulty_kernel: Built<Kernel>,
    five_level_kernel: Built<Kernel>,
    hardened_kernel: Built<Kernel>,
    simulation: Built<PathBuf>,
}

/// A build is tried once.
#[derive(Default)]
enum Built<T> {
    #[default]
    NotYet,
    Failed,
    Done(T),
}

impl<T> Built<T> {
    fn get(&mut self, what: &'static str, build: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
        if matches!(self, Self::NotYet) {
            *self = Self::Failed;
            *self = Self::Done(build()?);
        }
        match self {
            Self::Done(program) => Ok(program),
            Self::NotYet | Self::Failed => Err(Error::NotBuilt(what)),
        }
    }
}

impl Programs {
    /// The kernel.
    pub(super) fn kernel(&mut self, variant: Variant) -> Result<&Kernel, Error> {
        let kept = match variant {
            Variant::Plain => &mut self.kernel,
            Variant::FaultInjection => &mut self.faulty_kernel,
            Variant::FiveLevels => &mut self.five_level_kernel,
            Variant::Hardening => &mut self.hardened_kernel,
        };
        kept.get("the kernel", || Kernel::build(variant))
    }

    /// The program that simulates.
    pub(super) fn simulation(&mut self) -> Result<&Path, Error> {
        Ok(self.simulation.get("the simulation", sim::build)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_tried_once() {
        let mut failing = Built::<u32>::NotYet;
        assert!(matches!(failing.get("it", || Err(Error::OnlyUnderQemu("x"))), Err(Error::OnlyUnderQemu(_))));
        assert!(matches!(failing.get("it", || Ok(1)), Err(Error::NotBuilt("it"))));
        let mut working = Built::NotYet;
        assert_eq!(*working.get("it", || Ok(1)).unwrap(), 1);
        assert_eq!(*working.get("it", || Ok(2)).unwrap(), 1);
    }
}
