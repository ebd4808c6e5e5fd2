//! Shared mappings: map, write a tag, unmap (awaited, waited for, batched, detached), protect.

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use topomem::address_space::MapError;
use topomem::{FrameRequest, Order, PageRange, PageSize, PhysFrame, VirtAddr};

use crate::Text;
use crate::oracle::{Holder, Phase, SlotChange, Space, Tag};
use crate::shared::shared_space::{Backing, FrameOwner, SharedSpace, SlotPage};
use crate::shared::transfer::HeldFrames;
use crate::worker::{KERNEL, Worker};
use crate::{Course, Failure, Rig};

/// A frame that no CPU has a translation to any more, filled with poison to prove it.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Poisoned {
    frame: PhysFrame,
    holder: Holder,
    poison: u64,
    space: Space,
    address: VirtAddr,
}

/// Where in a slot's page the tag is.
const TAG_OFFSET: u16 = 0;
/// Where CPUs write; each has a word of its own among [`SCRATCH_WORDS`].
const SCRATCH_OFFSET: u16 = 2048;
const SCRATCH_WORDS: u16 = 16;

/// How an unmapping is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unmap {
    Awaited,
    Waited,
    /// Waited for with interrupts masked: the others' shootdowns have only the wait to serve them.
    Masked,
    Detached,
}

impl<R: Rig> Worker<'_, R> {
    /// The byte offset of the word that this CPU writes in slots' pages.
    pub(super) fn scratch_offset(&self) -> u16 {
        SCRATCH_OFFSET + 8 * (self.cpu.index() as u16 % SCRATCH_WORDS)
    }

    pub(in crate::worker) async fn change_step(&mut self) {
        let run = self.run;
        // An unresponsive CPU keeps changes of the kernel's space waiting, but of no other.
        let first =
            if run.options.scenario.course == Course::OneIsUnresponsive { KERNEL + 1 } else { KERNEL };
        let number = first + self.random.index(run.spaces.len() - first);
        let space = &run.spaces[number];
        if self.random.one_in(16) {
            return self.churn_tables(space).await;
        }
        if first == KERNEL && self.random.one_in(32) {
            return self.kernel_tables().await;
        }
        let index = self.random.index(space.pages.len());
        let page = &space.pages[index];
        let Some(change) = page.slot.try_lock() else { return };
        // Relaxed: a hint.
        space.hot.store(index as u32, Ordering::Relaxed);
        run.counters(self.cpu).changes.fetch_add(1, Ordering::Relaxed);
        match change.state().phase {
            Phase::Vacant | Phase::Detached => self.map(space, page, &change),
            Phase::Remapped => self.unmap(space, page, &change, Unmap::Awaited).await,
            Phase::Writable | Phase::ReadOnly => match self.random.below(100) {
                0..35 => self.unmap(space, page, &change, Unmap::Awaited).await,
                35..40 => self.unmap(space, page, &change, Unmap::Waited).await,
                40..50 => self.unmap(space, page, &change, Unmap::Masked).await,
                50..65 => self.unmap(space, page, &change, Unmap::Detached).await,
                65..70 => self.unmap_in_burst(space, page, &change).await,
                70..79 => self.unmap_batch(space, page, &change),
                79..86 => self.change_in_pair(number, index, change),
                _ => self.protect(space, page, &change).await,
            },
            // Only a changer leaves that behind, and it had the lock: it gave up on a failure.
            Phase::Changing => {}
        }
    }

    /// Maps a new frame with a new tag. Over a detached mapping the old translation may remain.
    fn map(&mut self, space: &SharedSpace<R::Machine>, page: &SlotPage, change: &SlotChange<'_>) {
        let state = change.state();
        let service = self.run.rig.service();
        let Ok(frame) = service.alloc(&self.pin, &FrameRequest::frame()) else { return };
        let Some(held) = self.take_in(frame, Order::FRAME) else { return };
        let (version, phase) = match state.phase {
            Phase::Detached => (state.version + 1, Phase::Remapped),
            _ => (state.version, Phase::Writable),
        };
        self.word(frame, TAG_OFFSET).store(change.slot().tag(version).encode(), Ordering::Release);
        let owner = if self.random.one_in(3) { FrameOwner::Space } else { FrameOwner::Scenario };
        change.begin();
        let target = space.space();
        let mapped = match owner {
            FrameOwner::Scenario => {
                // SAFETY: the frame is the scenario's until the unmapping has completed, and only
                // ever accessed as atomic words.
                unsafe { target.map_borrowed(&self.pin, page.range(), frame, space.writable()) }
            }
            FrameOwner::Space => {
                // SAFETY: the frame was just allocated as a single one, and is given up if this
                // succeeds.
                unsafe {
                    target.map_owned(&self.pin, page.address, PageSize::Size4KiB, frame, space.writable())
                }
            }
        };
        match mapped {
            Ok(()) => {
                page.set_backing(Backing { frame, holder: held.holder, owner });
                change.publish(state.version, phase);
            }
            Err(error) => {
                self.free_unchecked(held);
                change.publish(state.version, state.phase);
                if !matches!(error, MapError::OutOfFrames(_)) {
                    self.refused("mapping a page", Text::display(&error));
                }
            }
        }
    }

    async fn unmap(
        &mut self,
        space: &SharedSpace<R::Machine>,
        page: &SlotPage,
        change: &SlotChange<'_>,
        how: Unmap,
    ) {
        let Some(backing) = page.backing() else { return };
        let state = change.state();
        // A detached unmapping tells nobody when the scenario's own frame is free.
        let how = match (how, backing.owner) {
            (Unmap::Detached, FrameOwner::Scenario) => Unmap::Awaited,
            _ => how,
        };
        change.begin();
        self.let_go(backing);
        let unmapping = match space.space().unmap(&self.pin, page.range()) {
            Ok(unmapping) => unmapping,
            Err(error) => return self.refused("unmapping a page", Text::display(&error)),
        };
        if unmapping.pages() != 1 {
            let error = Text::debug(&unmapping.pages());
            return self.refused("unmapping one page unmapped another number", error);
        }
        match how {
            Unmap::Awaited => unmapping.await,
            Unmap::Waited => unmapping.wait(&self.pin),
            Unmap::Masked => {
                let mut unmapping = Some(unmapping);
                self.run.rig.ignore_shootdowns(|| {
                    unmapping.take().into_iter().for_each(|unmapping| unmapping.wait(&self.pin));
                    true
                });
            }
            Unmap::Detached => {
                unmapping.detach();
                return change.publish(state.version, Phase::Detached);
            }
        }
        self.settle(space, page, change, backing);
    }

    /// Unmaps this slot and those of its neighbours that are free for it, as one batch.
    fn unmap_batch(&mut self, space: &SharedSpace<R::Machine>, page: &SlotPage, change: &SlotChange<'_>) {
        const MOST: usize = 6;
        let first = self.random.index(space.pages.len());
        let mut others: ArrayVec<(&SlotPage, SlotChange<'_>), MOST> = ArrayVec::new();
        for other in space.pages.iter().cycle().skip(first).take(MOST) {
            if let Some(change) = other.slot.try_lock()
                && matches!(change.state().phase, Phase::Writable | Phase::ReadOnly)
            {
                others.push((other, change));
            }
        }
        let targets =
            || core::iter::once((page, change)).chain(others.iter().map(|(page, change)| (*page, change)));
        let target = space.space();
        let mut batch = target.batch(&self.pin);
        for (page, change) in targets() {
            change.begin();
            if let Some(backing) = page.backing() {
                self.let_go(backing);
            }
            if let Err(error) = batch.unmap(page.range()) {
                self.refused("unmapping in a batch", Text::display(&error));
            }
        }
        batch.issue().wait(&self.pin);
        let mut settled: ArrayVec<(&SlotPage, &SlotChange<'_>, Backing), { MOST + 1 }> = ArrayVec::new();
        settled.extend(targets().filter_map(|(page, change)| Some((page, change, page.backing()?))));
        for (page, change, backing) in settled {
            self.settle(space, page, change, backing);
        }
    }

    /// Takes a frame that its space will free off the account, before the space can free it.
    pub(super) fn let_go(&self, backing: Backing) {
        if backing.owner == FrameOwner::Space {
            self.release(backing.frame, Order::FRAME, backing.holder);
        }
    }

    /// The unmapping of a slot has completed: nobody can reach its old page any more.
    pub(in crate::worker) fn settle(
        &mut self,
        space: &SharedSpace<R::Machine>,
        page: &SlotPage,
        change: &SlotChange<'_>,
        backing: Backing,
    ) {
        let state = change.state();
        if backing.owner == FrameOwner::Scenario {
            self.poison(space, page, change.slot().tag(state.version), backing);
        }
        // Over a detached mapping the newest tag was one above the version.
        change.publish(state.version + 2, Phase::Vacant);
    }

    fn poison(&mut self, space: &SharedSpace<R::Machine>, page: &SlotPage, tag: Tag, backing: Backing) {
        let Backing { frame, holder, .. } = backing;
        let poison = tag.poison();
        for offset in poisoned_offsets() {
            self.word(frame, offset).store(poison, Ordering::Release);
        }
        if self.poisoned.is_full()
            && let Some(oldest) = self.poisoned.pop_at(0)
        {
            self.inspect(oldest);
        }
        self.poisoned.push(Poisoned { frame, holder, poison, space: space.name, address: page.address });
    }

    /// Looks whether anybody wrote to a poisoned frame, and frees it.
    pub(in crate::worker) fn inspect(&mut self, poisoned: Poisoned) {
        let Poisoned { frame, holder, poison, space, address } = poisoned;
        for offset in poisoned_offsets() {
            let found = self.word(frame, offset).load(Ordering::Acquire);
            if found != poison {
                self.run.fail(Failure::LateWrite { frame, cpu: self.cpu, space, address, found });
                break;
            }
        }
        self.free_unchecked(HeldFrames { frame, order: Order::FRAME, holder });
    }

    async fn protect(&mut self, space: &SharedSpace<R::Machine>, page: &SlotPage, change: &SlotChange<'_>) {
        let state = change.state();
        let (protection, phase) = match state.phase {
            Phase::Writable => (space.read_only(), Phase::ReadOnly),
            _ => (space.writable(), Phase::Writable),
        };
        change.begin();
        let protected = match space.space().protect(&self.pin, page.range(), protection) {
            Ok(protected) => protected,
            Err(error) => return self.refused("protecting a page", Text::display(&error)),
        };
        protected.await;
        change.publish(state.version, phase);
    }

    /// Unmaps what is left in all slots; by one CPU, once the others change nothing any more.
    pub(crate) async fn clear_slots(&mut self) {
        let run = self.run;
        for space in &run.spaces {
            for page in &space.pages {
                let Some(change) = page.slot.try_lock() else { continue };
                if matches!(change.state().phase, Phase::Writable | Phase::ReadOnly | Phase::Remapped) {
                    self.unmap(space, page, &change, Unmap::Awaited).await;
                }
            }
            for range in [Some(space.whole_range()), space.placed_range()].into_iter().flatten() {
                match space.space().unmap(&self.pin, range) {
                    Ok(unmapping) => unmapping.await,
                    Err(error) => self.refused("unmapping all tables", Text::display(&error)),
                }
            }
        }
    }

    /// Maps a page under page tables of this CPU's own, and frees them together.
    async fn churn_tables(&mut self, space: &SharedSpace<R::Machine>) {
        let Some(range) = space.private_range(self.cpu) else { return };
        let page = PageRange::page(range.start(), PageSize::Size4KiB);
        match space.space().map(&self.pin, page, FrameRequest::frame(), space.writable()) {
            Ok(()) => {}
            // A CPU that shares the range was faster.
            Err(MapError::OutOfFrames(_) | MapError::AlreadyMapped { .. }) => return,
            Err(error) => return self.refused("mapping a page of its own", Text::display(&error)),
        }
        if self.random.one_in(4) {
            // Other processors may look around in the tables meanwhile.
            self.run.rig.rest(1).await;
        }
        match space.space().unmap(&self.pin, range) {
            Ok(unmapping) => unmapping.await,
            Err(error) => self.refused("unmapping tables", Text::display(&error)),
        }
    }
}

fn poisoned_offsets() -> impl Iterator<Item = u16> {
    core::iter::once(TAG_OFFSET).chain((0..SCRATCH_WORDS).map(|word| SCRATCH_OFFSET + 8 * word))
}
