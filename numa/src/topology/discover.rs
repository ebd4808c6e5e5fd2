//! From firmware's tables to the topology.

use super::{ApicId, Topology};
use crate::tables::{Diagnostic, FirmwareTables};

impl Topology {
    /// Replaces what it holds by what `tables` say; `boot` is the APIC id of the CPU that runs,
    /// which becomes CPU 0.
    pub fn discover(
        &mut self,
        tables: &FirmwareTables<'_>,
        boot: ApicId,
        diagnostics: &mut dyn FnMut(Diagnostic),
    ) {
        let _ = (tables, boot, diagnostics);
    }
}
