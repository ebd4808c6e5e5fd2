//! The frames that the watermarks leave to a request, and the notes of nodes under pressure.

use topomem_percpu::NodeId;
use topomem_percpu::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::AllocatorState;
use crate::frames::node::{Node, NodeZone};
use crate::frames::types::{FrameRequest, NodeSet, WORDS, Watermarks, Zone, place};

/// The nodes under pressure.
///
/// A hint, so Relaxed except between the two kinds of words: a reclaim counts free frames again.
#[derive(Debug)]
pub(in crate::frames) struct PressureNotes {
    /// A bit for each node.
    nodes: [AtomicU64; WORDS],
    /// A bit for each word of `nodes` in which a bit was set since the word was last taken.
    words: AtomicU64,
    /// Set if a node was noted since the last [`PressureNotes::take_due`].
    due: AtomicBool,
}

const _: () = assert!(WORDS <= 64);

impl PressureNotes {
    pub(in crate::frames) fn new() -> PressureNotes {
        PressureNotes {
            nodes: core::array::from_fn(|_| AtomicU64::new(0)),
            words: AtomicU64::new(0),
            due: AtomicBool::new(false),
        }
    }

    fn note(&self, node: NodeId) {
        let (word, bit) = place(node);
        if self.nodes[word].load(Ordering::Relaxed) & bit == 0 {
            self.nodes[word].fetch_or(bit, Ordering::Relaxed);
            // Release pairs with the Acquire in `take`: a reader of the word's bit takes the node's, too. Otherwise
            // the node's bit would stay, and the node would never be noted again.
            self.words.fetch_or(1 << word, Ordering::Release);
            self.due.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if pressure was noted since the last call of [`PressureNotes::take_due`].
    #[inline]
    pub(in crate::frames) fn is_due(&self) -> bool {
        // Relaxed: a hint.
        self.due.load(Ordering::Relaxed)
    }

    /// Returns true as [`PressureNotes::is_due`] does, once.
    #[inline]
    pub(in crate::frames) fn take_due(&self) -> bool {
        // Relaxed: a hint.
        self.due.swap(false, Ordering::Relaxed)
    }

    pub(in crate::frames) fn any(&self) -> bool {
        self.words.load(Ordering::Relaxed) != 0
    }

    pub(in crate::frames) fn take(&self) -> NodeSet {
        if !self.any() {
            return NodeSet::EMPTY;
        }
        let words = self.words.swap(0, Ordering::Acquire);
        let mut taken = [0; WORDS];
        for (index, (taken, word)) in taken.iter_mut().zip(&self.nodes).enumerate() {
            if words & 1 << index != 0 {
                *taken = word.swap(0, Ordering::Relaxed);
            }
        }
        NodeSet::from_words(&taken).unwrap_or_default()
    }
}

impl AllocatorState {
    /// Returns true if `frames` frames may be taken from a zone without touching the reserve, or if the request may
    /// touch the reserve. Notes pressure on the node if too few frames are left.
    #[inline]
    pub(crate) fn may_take(&self, node: NodeId, zone: Zone, request: &FrameRequest, frames: u64) -> bool {
        let Some(state) = self.node(node).map(|node| &node.zones[zone.index()]) else { return false };
        state.free() >= state.ample.saturating_add(frames as i64)
            || self.may_take_scarce(node, zone, request, frames)
    }

    /// Returns true if a magazine may take a word of a zone of the magazine's node. A magazine serves every request.
    /// Therefore magazines take none of the reserve, even if all CPUs of the node take a word at the same moment.
    #[inline]
    pub(in crate::frames) fn may_refill(&self, node: NodeId, zone: Zone) -> bool {
        let Some(state) = self.node(node).map(|node| &node.zones[zone.index()]) else { return false };
        state.free() >= state.ample_to_refill || self.may_refill_scarce(node, zone)
    }

    /// Answers [`AllocatorState::may_take`] near a watermark, by an exact count.
    #[cold]
    #[inline(never)]
    pub(in crate::frames) fn may_take_scarce(
        &self,
        node: NodeId,
        zone: Zone,
        request: &FrameRequest,
        frames: u64,
    ) -> bool {
        let Some(state) = self.node(node) else { return false };
        let left = self.free_now(state, zone) - frames as i64;
        let state = &state.zones[zone.index()];
        // Relaxed: a reclaim counts free frames again before setting the alarm.
        let alarm = state.alarm.load(Ordering::Relaxed);
        let is_refused = !request.emergency && left < state.watermarks.min as i64;
        let is_noted = if is_refused {
            // Refusals 1, 2, 4, 8 and further powers: a vain reclaim may free frames later.
            (state.refusals.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two()
        } else {
            left.max(0) < alarm as i64
        };
        if is_noted {
            self.pressure.note(node);
        } else if alarm != state.watermarks.low && left >= state.watermarks.low as i64 {
            state.alarm.store(state.watermarks.low, Ordering::Relaxed);
            state.refusals.store(0, Ordering::Relaxed);
        }
        !is_refused
    }

    /// Answers [`AllocatorState::may_refill`] near a watermark, by an exact count.
    #[cold]
    #[inline(never)]
    pub(in crate::frames) fn may_refill_scarce(&self, node: NodeId, zone: Zone) -> bool {
        let Some(state) = self.node(node) else { return false };
        let Watermarks { min, low, high: _ } = state.zones[zone.index()].watermarks;
        let most = 64 * self.magazines[node.index()].len() as i64;
        self.free_now(state, zone) >= min.max(low) as i64 + most
    }

    /// Counts the free frames of a zone, unreported changes of CPUs included.
    pub(in crate::frames) fn free_now(&self, node: &Node, zone: Zone) -> i64 {
        let magazines = self.magazines[node.id.index()];
        node.zones[zone.index()].free()
            + magazines.iter().map(|magazine| magazine.unreported(zone)).sum::<i64>()
    }

    /// Returns the populated zones of `nodes`, each with the number of free frames.
    pub(in crate::frames) fn zones_of(
        &self,
        nodes: &NodeSet,
    ) -> impl Iterator<Item = (&'static NodeZone, i64)> {
        self.members(nodes).flat_map(move |node| {
            let zones =
                Zone::ALL.into_iter().map(move |zone| (&node.zones[zone.index()], self.free_now(node, zone)));
            zones.filter(|(zone, _)| zone.managed > 0)
        })
    }

    /// Returns whether all zones of `nodes` are back at their high watermarks.
    pub(in crate::frames) fn is_relieved(&self, nodes: &NodeSet) -> bool {
        self.zones_of(nodes).all(|(zone, free)| free >= zone.watermarks.high as i64)
    }
}
