//! Where the allocator's bookkeeping lies.

use core::ptr::NonNull;

use topomem_percpu::{NodeId, Platform};

use crate::frames::Frames;

/// A part of a node's bookkeeping, in the direct map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bookkeeping {
    /// The kind of structure, for reports.
    pub what: &'static str,
    /// The first byte of the part.
    pub first: NonNull<u8>,
    /// The length in bytes.
    pub bytes: u64,
}

impl Bookkeeping {
    /// Describes a slice of values; `None` if the slice is empty.
    fn of<T>(what: &'static str, values: &'static [T]) -> Option<Bookkeeping> {
        let first = NonNull::from(values.first()?).cast();
        Some(Bookkeeping { what, first, bytes: size_of_val(values) as u64 })
    }
}

impl<P: Platform> Frames<P> {
    /// Calls `visit` with each part of the bookkeeping that belongs to `node`: the node's counters and zones, its
    /// regions and their bitmaps, its frames' entries in the per-frame table, marks, the pool of zeroed frames, and
    /// the magazines of the CPUs served by the node. Each part lies on the node if the node had room when
    /// [`Frames::init`] placed the part, and near the node otherwise.
    ///
    /// For checks and reports. Costs a few loads for each region. Finds nothing before [`Frames::init`], and
    /// nothing if there is no such node.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    ///
    /// let mut bytes = 0;
    /// frames.bookkeeping(NodeId::ZERO, |part| bytes += part.bytes);
    /// assert!(bytes > 0);
    /// # let _ = pin;
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn bookkeeping(&self, node: NodeId, mut visit: impl FnMut(Bookkeeping)) {
        let Some(state) = self.state() else { return };
        let Some(built) = state.node(node) else { return };
        let mut note = |part: Option<Bookkeeping>| part.into_iter().for_each(&mut visit);
        note(Bookkeeping::of("node", core::slice::from_ref(built)));
        note(Bookkeeping::of("pool of zeroed frames", built.zeroed.sets()));
        note(Bookkeeping::of("magazines", state.magazines[node.index()]));
        for region in built.zones.iter().flat_map(|zone| zone.regions.iter()) {
            note(Bookkeeping::of("region", core::slice::from_ref(region)));
            note(Bookkeeping::of("managed spans", region.managed));
            note(Bookkeeping::of("bitmaps", region.lines));
            note(Bookkeeping::of("states of blocks", region.entries));
            note(Bookkeeping::of("buddy", region.chunks));
            note(Bookkeeping::of("marks", region.marks.0));
            let stretches = state.directory.stretches.iter();
            for stretch in stretches.filter(|stretch| {
                region.span.start <= stretch.span.start && stretch.span.start < region.span.end
            }) {
                note(Bookkeeping::of("per-frame table", stretch.entries));
            }
        }
    }
}
