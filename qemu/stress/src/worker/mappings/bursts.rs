//! An unmapping with more invalidations on its heels than the log of invalidations holds.

use crate::oracle::{Phase, SlotChange};
use crate::shared::shared_space::{SharedSpace, SlotPage};
use crate::worker::Worker;
use crate::{Rig, Text};

/// Every second one takes something away, and is logged: more than the service's log of 32 holds.
const CHANGES: u32 = 81;

impl<R: Rig> Worker<'_, R> {
    /// Unmaps this slot, and changes the protection of another over and over before it awaits
    /// that: a CPU that was idle or slow finds the unmapping gone from the log.
    pub(super) async fn unmap_in_burst(
        &mut self,
        space: &SharedSpace<R::Machine>,
        page: &SlotPage,
        change: &SlotChange<'_>,
    ) {
        let Some(backing) = page.backing() else { return };
        let first = self.random.index(space.pages.len());
        let candidates = space.pages.iter().cycle().skip(first).take(space.pages.len());
        let mut locked = candidates.filter_map(|other| Some((other, other.slot.try_lock()?)));
        let other =
            locked.find(|(_, other)| matches!(other.state().phase, Phase::Writable | Phase::ReadOnly));
        let Some((noisy, other)) = other else { return };
        drop(locked);
        change.begin();
        other.begin();
        self.let_go(backing);
        let unmapping = match space.space().unmap(&self.pin, page.range()) {
            Ok(unmapping) => unmapping,
            Err(error) => return self.refused("unmapping a page", Text::display(&error)),
        };
        let noise = (0..CHANGES).map(|turn| if turn % 2 == 0 { space.writable() } else { space.read_only() });
        for protection in noise {
            match space.space().protect(&self.pin, noisy.range(), protection) {
                Ok(protected) => protected.detach(),
                Err(error) => return self.refused("protecting a page", Text::display(&error)),
            }
        }
        unmapping.await;
        // Writable so far: this is one more change, done only where all before it are.
        match space.space().protect(&self.pin, noisy.range(), space.read_only()) {
            Ok(protected) => protected.await,
            Err(error) => return self.refused("protecting a page", Text::display(&error)),
        }
        self.settle(space, page, change, backing);
        other.publish(other.state().version, Phase::ReadOnly);
    }
}
