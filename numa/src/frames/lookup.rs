//! Lookups: the node, the zone and the per-frame entry of a frame; the node that serves a CPU.

use topomem_percpu::{CpuId, NodeId, PhysFrame, Platform};

use super::Frames;
use super::state::frame_table::FrameInfo;
use super::state::{AllocatorState, Metadata};
use crate::frames::types::{FrameNumber, Zone};

impl<P: Platform> Frames<P> {
    /// Returns the node of a frame, or `None` if no node has it.
    ///
    /// Cost: one load and a search of the regions of 16 MiB: mostly one.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let run = frames.alloc_owned(&FrameRequest::frame())?;
    /// assert_eq!(frames.node_of(run.first()), Some(NodeId::ZERO));
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_of(&self, frame: PhysFrame) -> Option<NodeId> {
        Some(self.state()?.region_of(FrameNumber::of(frame))?.node)
    }

    /// Returns the serving node of `cpu`: its own, or the nearest node with memory if its own node
    /// has none in this allocator. The CPU's magazine and its refills are on that node. Returns
    /// node 0 before [`Frames::init`].
    ///
    /// Cost: two loads; the result was computed by [`Frames::init`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    ///
    /// assert_eq!(frames.node_of_cpu(pin.cpu()), NodeId::ZERO);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.state().map_or(NodeId::ZERO, |state| state.node_of_cpu(cpu))
    }

    /// Returns the node with memory nearest to `node`: the node itself if it has memory. Returns
    /// `None` if the machine has no such node, if no node has memory, and before [`Frames::init`].
    ///
    /// Cost: a few loads for each node checked.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    ///
    /// assert_eq!(frames.node_with_memory(NodeId::ZERO), Some(NodeId::ZERO));
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_with_memory(&self, node: NodeId) -> Option<NodeId> {
        let state = self.state()?;
        let nearest = state.node(node)?.nearest().iter().copied();
        nearest.filter_map(|id| state.node(id)).find(|node| node.has_memory()).map(|node| node.id)
    }

    /// Returns the zone of a frame, or `None` if no node has it.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::{FrameRequest, Zone};
    ///
    /// let run = frames.alloc_owned(&FrameRequest::frame())?;
    /// assert_eq!(frames.zone_of(run.first()), Some(Zone::Dma32)); // between 16 MiB and 4 GiB
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn zone_of(&self, frame: PhysFrame) -> Option<Zone> {
        Some(self.state()?.region_of(FrameNumber::of(frame))?.zone)
    }

    /// Returns the frame's entry in the per-frame table; `None` without a table, or outside all
    /// memory.
    ///
    /// Cost: logarithmic in the stretches of memory.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::FrameRequest;
    ///
    /// let run = frames.alloc_owned(&FrameRequest::frame())?;
    /// assert!(frames.info(run.first()).is_some());
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn info(&self, frame: PhysFrame) -> Option<&FrameInfo> {
        self.state()?.directory.find_info(FrameNumber::of(frame))
    }

    /// Returns the entry as [`Frames::info`] does, without checking that it exists: mostly two
    /// loads.
    ///
    /// # Safety
    ///
    /// [`Frames::info`] has an entry for the frame. It has entries for all frames ever handed out
    /// by an allocator with a per-frame table.
    #[inline]
    pub unsafe fn info_unchecked(&self, frame: PhysFrame) -> &FrameInfo {
        // SAFETY: there is no entry before `init`.
        let state = unsafe { self.state().unwrap_unchecked() };
        // SAFETY: the caller's promise.
        unsafe { state.directory.info(FrameNumber::of(frame)) }
    }

    /// Returns the number of the frame's entry in the per-frame table: from 1 on, and no more than
    /// [`Frames::last_info_number`]. If memory ends below 8 TiB, it is the frame's own number.
    /// Otherwise entries are numbered consecutively where there is memory, so their numbers need
    /// fewer bits than those of frames.
    ///
    /// Cost: as for [`Frames::info_unchecked`].
    ///
    /// # Safety
    ///
    /// As for [`Frames::info_unchecked`].
    #[inline]
    pub unsafe fn info_number_unchecked(&self, frame: PhysFrame) -> u64 {
        // SAFETY: there is no entry before `init`.
        let state = unsafe { self.state().unwrap_unchecked() };
        // SAFETY: the caller's promise.
        unsafe { state.directory.entry_number(FrameNumber::of(frame)) }
    }

    /// Returns the frame whose entry in the per-frame table has the number `number`; for a number
    /// without an entry, any frame.
    ///
    /// Cost: two loads if memory ends below 8 TiB; otherwise logarithmic in the stretches of
    /// memory.
    #[inline]
    pub fn frame_of_info(&self, number: u64) -> PhysFrame {
        let frame = |state: &AllocatorState| state.directory.frame_of_entry(number);
        self.state().map_or(FrameNumber::new(number), frame).frame()
    }

    /// Returns the number of the last entry in the per-frame table; 0 without a table.
    pub fn last_info_number(&self) -> u64 {
        let last = self.state().and_then(|state| state.directory.stretches.last());
        last.map_or(0, |last| last.first_entry + last.entries.len() as u64 - 1)
    }

    /// Returns the bytes of bookkeeping; zeros before [`Frames::init`].
    pub fn metadata(&self) -> Metadata {
        self.state().map_or(Metadata::default(), |state| state.metadata)
    }
}
