//! The scenarios that only the kernel has, by name: the others are topomem's stress scenarios.

/// A scenario that needs the kernel or the emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelScenario {
    /// Interrupts, tasks and faults.
    Machine,
    /// What changes of mappings cost.
    MeasureShootdown,
    /// What memory costs a program.
    MeasureVm,
    /// Writes out the firmware's tables.
    Acpidump,
    /// Runs out of memory.
    Shortage,
    /// Ranges of kernel addresses, on all CPUs.
    Ranges,
    /// Programs in ring 3.
    Processes,
    /// Panics.
    Panic,
    /// Accesses an unmapped page.
    PageFault,
    /// Overflows a stack.
    DoubleFault,
}

impl KernelScenario {
    /// All of them.
    pub const ALL: [KernelScenario; 10] = [
        KernelScenario::Machine,
        KernelScenario::MeasureShootdown,
        KernelScenario::MeasureVm,
        KernelScenario::Acpidump,
        KernelScenario::Shortage,
        KernelScenario::Ranges,
        KernelScenario::Processes,
        KernelScenario::Panic,
        KernelScenario::PageFault,
        KernelScenario::DoubleFault,
    ];

    /// What the command line calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            KernelScenario::Machine => "machine",
            KernelScenario::MeasureShootdown => "measure-shootdown",
            KernelScenario::MeasureVm => "measure-vm",
            KernelScenario::Acpidump => "acpidump",
            KernelScenario::Shortage => "shortage",
            KernelScenario::Ranges => "ranges",
            KernelScenario::Processes => "processes",
            KernelScenario::Panic => "panic",
            KernelScenario::PageFault => "pagefault",
            KernelScenario::DoubleFault => "doublefault",
        }
    }

    /// The scenario that the command line calls `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<KernelScenario> {
        KernelScenario::ALL.into_iter().find(|scenario| scenario.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for scenario in KernelScenario::ALL {
            assert_eq!(KernelScenario::named(scenario.name()), Some(scenario));
        }
        assert_eq!(KernelScenario::named("stress"), None);
    }
}
