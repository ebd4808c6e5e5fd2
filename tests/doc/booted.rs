// A memory service on a simulated machine, for the examples in the documentation.

use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin};

pub type Outcome = Result<(), Box<dyn std::error::Error>>;

pub fn run(example: impl FnOnce(&'static SimService, &CpuPin) -> Outcome) -> Outcome {
    let sim = Sim::builder().memory(64 << 20).build()?;
    let service = sim.boot_service()?;
    sim.on(CpuId::BOOT, |pin| example(service, pin))
}
