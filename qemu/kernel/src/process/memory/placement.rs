//! Where a process's memory is: the nodes of its frames.

use topomem::frames::NodeSet;
use topomem::region::{FaultAccess, MoveError, MovedPages, PageMove};
use topomem::{NodeId, PageRange, PageSize, Policy, VirtAddr};

use super::{Memory, aligned, user_address};
use crate::memory::platform::pin;
use crate::syscall::Errno;

impl Memory {
    /// Says on which nodes memory comes to be that has no policy of its own.
    pub(crate) fn set_policy(&self, policy: Option<Policy>) {
        self.space.set_policy(policy);
    }

    /// Returns on which nodes memory comes to be that has no policy of its own.
    pub(crate) fn policy(&self) -> Option<Policy> {
        self.space.policy()
    }

    /// Says on which nodes the memory in `bytes` from `start` on comes to be.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::FAULT`] if nothing is mapped there, [`Errno::NO_MEMORY`].
    pub(crate) fn set_policy_of(&self, start: u64, bytes: u64, policy: Option<Policy>) -> Result<(), Errno> {
        let start = aligned(start, Errno::FAULT)?;
        Ok(self.space.set_region_policy(&pin(), start, bytes, policy)?)
    }

    /// Returns the policy of the memory at `address`.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`] if nothing is mapped there.
    pub(crate) fn policy_of(&self, address: u64) -> Result<Option<Policy>, Errno> {
        let address = user_address(address).ok_or(Errno::FAULT)?;
        Ok(self.space.region_policy(&pin(), address)?)
    }

    /// Moves what is in `bytes` from `start` on, and not where `policy` would have it.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::FAULT`].
    pub(crate) fn move_to(&self, start: u64, bytes: u64, policy: Policy) -> Result<MovedPages, Errno> {
        let start = aligned(start, Errno::FAULT)?;
        let range = PageRange::new(start, bytes.div_ceil(4096), PageSize::Size4KiB);
        Ok(self.space.move_range(&pin(), range.map_err(|_| Errno::FAULT)?, policy))
    }

    /// Moves what is on the nodes `from` to the nodes `to`.
    pub(crate) fn move_between(&self, from: NodeSet, to: NodeSet) -> MovedPages {
        self.space.move_between(&pin(), from, to)
    }

    /// Moves pages, and notes in each what has become of it.
    pub(crate) fn move_pages(&self, moves: &mut [PageMove]) {
        self.space.move_pages(&pin(), moves);
    }

    /// Returns the node of the page at `address`.
    ///
    /// # Errors
    ///
    /// [`MoveError`].
    pub(crate) fn node_of(&self, address: u64) -> Result<NodeId, MoveError> {
        let address = user_address(address).unwrap_or(VirtAddr::new_truncate(0));
        self.space.node_of_page(&pin(), address)
    }

    /// The same, after a read of the page.
    ///
    /// # Errors
    ///
    /// [`Errno::FAULT`].
    pub(crate) async fn node_of_used(&self, address: u64) -> Result<NodeId, Errno> {
        self.resolve(address, FaultAccess::Read).await.map_err(|_| Errno::FAULT)?;
        self.node_of(address).map_err(|_| Errno::FAULT)
    }
}
