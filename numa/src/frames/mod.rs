//! The frame allocator: bitmap blocks below 2 MiB, a buddy over whole blocks up to 1 GiB, and a
//! magazine per CPU in front.
//!
//! Memory of one node and zone is a *region* of 2 MiB *blocks*. Frames are free in exactly one
//! place: as a bit in their block's bitmap line, as part of a whole block in the buddy's line of
//! its GiB, or in one CPU's magazine.

mod config;
mod error;
mod ground;
mod owned;
mod policy;
mod request;
mod stats;
mod table;
mod zone;

pub use config::{FramesConfig, PerFrameTable};
pub use error::{AllocError, FreeError, InitError, InvalidRequest, OnlineError};
pub use ground::Ground;
pub use owned::OwnedFrames;
pub use policy::{NodeSet, Policy};
pub use request::FrameRequest;
pub use stats::{MagazineStats, NodeStats, Totals, ZoneStats};
pub use table::FrameInfo;
pub use zone::{Pressure, Watermarks, Zone, ZoneLimits};

use topomem_percpu::{CpuId, CpuPin, NodeId, Order, Platform};
use x86_64::structures::paging::PhysFrame;

/// All nodes' frame allocators, with a magazine per CPU in front.
#[derive(Debug)]
pub struct Frames<P: Platform> {
    platform: P,
}

impl<P: Platform> Frames<P> {
    /// An allocator without memory, for a `static`; [`Frames::init`] gives it some.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(platform: P) -> Frames<P> {
        Frames { platform }
    }

    /// The platform it runs on.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// Takes over all free memory of `ground`, with each node's bookkeeping on that node.
    ///
    /// # Errors
    /// [`InitError`].
    pub fn init<G: Ground>(&self, ground: &mut G, config: &FramesConfig) -> Result<(), InitError<G::Error>> {
        let _ = (ground, config);
        Err(InitError::NoMemory)
    }

    /// Gives the pinned CPU its magazine. Until then it allocates on the shared path.
    ///
    /// # Errors
    /// [`OnlineError`].
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        let _ = pin;
        Err(OnlineError::NotReady)
    }

    /// Returns everything that the pinned CPU's magazine holds, and takes the magazine away.
    pub fn cpu_offline(&self, pin: &CpuPin) {
        let _ = pin;
    }

    /// One naturally aligned run of frames: its first frame.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn alloc(&self, pin: &CpuPin, request: &FrameRequest) -> Result<PhysFrame, AllocError> {
        let _ = (pin, request);
        Err(AllocError::NotReady)
    }

    /// Takes back a run.
    ///
    /// # Errors
    /// [`FreeError`]; nothing has changed.
    ///
    /// # Safety
    ///
    /// The caller owns the run, and nobody uses or maps it any more.
    pub unsafe fn free(&self, pin: &CpuPin, frame: PhysFrame, order: Order) -> Result<(), FreeError> {
        let _ = (pin, order);
        Err(FreeError::OutOfRange(frame))
    }

    /// Fills `frames` with single frames: all or none.
    ///
    /// # Errors
    /// [`AllocError`]; what was taken has gone back.
    pub fn alloc_bulk(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
        frames: &mut [PhysFrame],
    ) -> Result<(), AllocError> {
        let _ = (pin, request, frames);
        Err(AllocError::NotReady)
    }

    /// Takes back single frames; a refused one is skipped.
    ///
    /// # Errors
    /// The first [`FreeError`], after all others were freed.
    ///
    /// # Safety
    ///
    /// As [`Frames::free`], for each.
    pub unsafe fn free_bulk(&self, pin: &CpuPin, frames: &[PhysFrame]) -> Result<(), FreeError> {
        let _ = pin;
        frames.first().map_or(Ok(()), |&frame| Err(FreeError::OutOfRange(frame)))
    }

    /// `count` contiguous frames, the first at a multiple of `align` frames; `request`'s order is
    /// not looked at.
    ///
    /// # Errors
    /// [`AllocError`].
    pub fn alloc_run(
        &self,
        pin: &CpuPin,
        request: &FrameRequest,
        count: u64,
        align: u64,
    ) -> Result<PhysFrame, AllocError> {
        let _ = (pin, request, count, align);
        Err(AllocError::NotReady)
    }

    /// Takes back `count` contiguous frames from [`Frames::alloc_run`].
    ///
    /// # Errors
    /// [`FreeError`].
    ///
    /// # Safety
    ///
    /// As [`Frames::free`].
    pub unsafe fn free_run(&self, pin: &CpuPin, first: PhysFrame, count: u64) -> Result<(), FreeError> {
        let _ = (pin, count);
        Err(FreeError::OutOfRange(first))
    }

    /// Returns everything that the pinned CPU's magazine holds.
    pub fn drain(&self, pin: &CpuPin) {
        let _ = pin;
    }

    /// Asks `cpu` to drain, at its next slow path or [`Frames::service`].
    pub fn request_drain(&self, cpu: CpuId) {
        let _ = cpu;
    }

    /// Does what other CPUs asked of this one; cheap when there is nothing. For service tasks,
    /// idle loops and interrupt handlers.
    pub fn service(&self, pin: &CpuPin) {
        let _ = pin;
    }

    /// The node of a frame; `None` where no node has it.
    pub fn node_of(&self, frame: PhysFrame) -> Option<NodeId> {
        let _ = frame;
        None
    }

    /// The zone of a frame; `None` where no node has it.
    pub fn zone_of(&self, frame: PhysFrame) -> Option<Zone> {
        let _ = frame;
        None
    }

    /// The frame's entry in the per-frame table; `None` without a table, or outside all memory.
    pub fn info(&self, frame: PhysFrame) -> Option<&FrameInfo> {
        let _ = frame;
        None
    }

    /// One node's memory and counters.
    pub fn stats(&self, node: NodeId) -> Option<NodeStats> {
        let _ = node;
        None
    }

    /// One CPU's magazine; `None` where it has none.
    pub fn cpu_stats(&self, cpu: CpuId) -> Option<MagazineStats> {
        let _ = cpu;
        None
    }
}
