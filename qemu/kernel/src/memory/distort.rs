//! `break=distance`: the service boots from tables that lie, the oracle keeps the truth.

use spin::{Mutex, MutexGuard};
use topomem::{ApicId, FirmwareTables, Topology};
use topomem_stress::{NothingToDistort, distort_distances};

/// The longest table that can be distorted, in bytes.
const LONGEST: usize = 16 * 1024;

static SRAT: Mutex<[u8; LONGEST]> = Mutex::new([0; LONGEST]);
static SLIT: Mutex<[u8; LONGEST]> = Mutex::new([0; LONGEST]);
static TRUTH: Mutex<Topology> = Mutex::new(Topology::new());

/// Distorted copies of `tables`, and the topology that the originals describe. Called once.
///
/// # Errors
///
/// [`NothingToDistort`]; also where a table is longer than 16 KiB.
pub(crate) fn distances(
    tables: &FirmwareTables<'static>,
    boot_cpu: ApicId,
) -> Result<(FirmwareTables<'static>, &'static Topology), NothingToDistort> {
    let truth = MutexGuard::leak(TRUTH.lock());
    truth.discover(tables, boot_cpu, &mut |_| ());
    let srat = copy(tables.srat, &SRAT)?.ok_or(NothingToDistort)?;
    let mut slit = copy(tables.slit, &SLIT)?;
    distort_distances(srat, slit.as_deref_mut())?;
    Ok((FirmwareTables { srat: Some(srat), slit: slit.map(|slit| &*slit), ..*tables }, truth))
}

fn copy(
    table: Option<&[u8]>,
    to: &'static Mutex<[u8; LONGEST]>,
) -> Result<Option<&'static mut [u8]>, NothingToDistort> {
    let Some(table) = table else { return Ok(None) };
    let place = MutexGuard::leak(to.lock()).get_mut(..table.len()).ok_or(NothingToDistort)?;
    place.copy_from_slice(table);
    Ok(Some(place))
}
