//! Locking memory: no page ever leaves memory once it is there, so locked is what is mapped to frames.

use core::sync::atomic::Ordering;

use topomem::region::{Advice, Sharing};
use topomem_exec::PAGE;

use super::mapping::{Part, range};
use crate::arch::user::USER_END;
use crate::process::Memory;
use crate::syscall::Errno;

/// When pages that are locked come into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locking {
    /// Before the call returns.
    Now,
    /// When they are used first.
    OnUse,
}

impl Memory {
    /// Has the pages with the `bytes` from `start` on in memory for as long as they are mapped.
    ///
    /// # Errors
    ///
    /// [`Errno::NO_MEMORY`] if one is not mapped or may not be used, [`Errno::AGAIN`] if there is no memory for it.
    pub(crate) async fn lock(&self, start: u64, bytes: u64, locking: Locking) -> Result<(), Errno> {
        let (start, bytes) = whole_pages(start, bytes)?;
        let range = range(start, bytes, Errno::NO_MEMORY)?;
        // A hole is found before anything is filled.
        self.for_each_part(range.clone(), async |_| Ok(())).await?;
        match locking {
            Locking::Now => self.for_each_part(range, async |part| self.fill(part).await).await,
            Locking::OnUse => Ok(()),
        }
    }

    /// Has all pages that are mapped in memory, as far as they can be used and there is memory.
    pub(crate) async fn lock_all(&self) {
        // Linux tells of none that is left out, and there always is a hole.
        let _ = self
            .for_each_part(0..USER_END, async |part| {
                let _ = self.fill(part).await;
                Ok(())
            })
            .await;
    }

    /// Checks that all pages with the `bytes` from `start` on are mapped: what unlocking asks for.
    ///
    /// # Errors
    ///
    /// [`Errno::NO_MEMORY`] if one is not mapped, [`Errno::INVALID`].
    pub(crate) async fn unlock(&self, start: u64, bytes: u64) -> Result<(), Errno> {
        self.lock(start, bytes, Locking::OnUse).await
    }

    /// Says whether what is mapped from now on is in memory from the first.
    pub(crate) fn set_future_locking(&self, locking: Option<Locking>) {
        // Relaxed here and below: no other memory depends on it.
        self.fills_new_mappings.store(locking == Some(Locking::Now), Ordering::Relaxed);
    }

    /// Tells whether what is mapped is in memory from the first.
    pub(crate) fn fills_new_mappings(&self) -> bool {
        self.fills_new_mappings.load(Ordering::Relaxed)
    }

    /// Has the pages of a part in memory, private ones as if they had been written to.
    async fn fill(&self, part: &Part) -> Result<(), Errno> {
        let is_private = part.object.as_ref().is_none_or(|shown| shown.sharing == Sharing::Private);
        let advice = match part.access {
            access if access.writes() && is_private => Advice::PopulateWrite,
            access if access.reads() => Advice::PopulateRead,
            _ => return Err(Errno::NO_MEMORY),
        };
        let (start, bytes) = (part.bytes.start, part.bytes.end - part.bytes.start);
        self.populate(start, bytes, advice).await.map_err(|error| match error {
            Errno::NO_MEMORY => Errno::AGAIN,
            _ => Errno::NO_MEMORY,
        })
    }
}

/// Returns the pages that hold the `bytes` from `start` on, by their first address and their bytes.
fn whole_pages(start: u64, bytes: u64) -> Result<(u64, u64), Errno> {
    let offset = start % PAGE;
    Ok((start - offset, bytes.checked_add(offset).ok_or(Errno::INVALID)?))
}
