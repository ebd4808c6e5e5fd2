//! Allocations on a chosen node.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

#[cfg(feature = "hardening")]
use crate::heap::Site;
use crate::heap::alloc::mark_live;
use crate::heap::large::Contents;
use crate::heap::{AllocError, Heap, dangling};
use crate::slab::{CHECKED, SizeClass};
use crate::{CpuPin, MAX_CLASS_SIZE, NodeId, PageSource, Platform};

/// The machine does not have the node.
///
/// ```
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// # use topomem_percpu::{Heap, Platform};
/// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
/// # let pin = Host.pin();
/// # HEAP.cpu_online(&pin)?;
/// use topomem_percpu::NodeId;
///
/// assert!(HEAP.on(NodeId::new(2).unwrap()).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownNode {
    /// The requested node.
    pub node: NodeId,
}

impl fmt::Display for UnknownNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the machine has no {}", self.node)
    }
}

impl core::error::Error for UnknownNode {}

/// An error of [`Heap::alloc_on`]. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocOnError {
    /// The machine does not have the node.
    UnknownNode(UnknownNode),
    /// There is no memory, on that node or on any other.
    Alloc(AllocError),
}

impl From<UnknownNode> for AllocOnError {
    fn from(unknown: UnknownNode) -> AllocOnError {
        AllocOnError::UnknownNode(unknown)
    }
}

impl From<AllocError> for AllocOnError {
    fn from(error: AllocError) -> AllocOnError {
        AllocOnError::Alloc(error)
    }
}

impl fmt::Display for AllocOnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocOnError::UnknownNode(unknown) => unknown.fmt(f),
            AllocOnError::Alloc(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AllocOnError {}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns a handle for allocations on `node`, independent of the CPU. If the node has no
    /// memory, the handle allocates on the nearest node with memory.
    ///
    /// # Errors
    ///
    /// Returns [`UnknownNode`] if [`PageSource::node_with_memory`] does not know the node.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, NodeId};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// use allocator_api2::vec::Vec;
    ///
    /// let heap = Heap::new(Host, Host);
    /// let local = heap.on(NodeId::ZERO)?;
    /// let mut words = Vec::new_in(local);
    /// words.try_reserve(100)?;
    /// words.extend(0..100_u64);
    /// assert_eq!(words.iter().sum::<u64>(), 4950);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on(&self, node: NodeId) -> Result<OnNode<'_, P, S>, UnknownNode> {
        match self.source.node_with_memory(node) {
            Some(home) => Ok(OnNode { heap: self, home }),
            None => Err(UnknownNode { node }),
        }
    }

    /// Allocates memory for `layout` on `node`: see [`OnNode::try_alloc`]. The memory is freed with
    /// [`Heap::free`] on any CPU, and returns to that node.
    ///
    /// # Errors
    ///
    /// Returns [`AllocOnError::UnknownNode`] if the machine does not have the node, and
    /// [`AllocOnError::Alloc`] if no node has memory, or if the layout is larger than the largest
    /// run of pages.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::{AllocOnError, Heap, NodeId, UnknownNode};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let layout = Layout::new::<[u64; 8]>();
    /// let memory = heap.alloc_on(NodeId::ZERO, layout)?;
    /// // SAFETY: allocated above with the layout, and not used any more.
    /// unsafe { heap.free(memory, layout)? };
    ///
    /// let node = NodeId::new(9).unwrap();
    /// assert_eq!(heap.alloc_on(node, layout), Err(AllocOnError::UnknownNode(UnknownNode { node })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub fn alloc_on(&self, node: NodeId, layout: Layout) -> Result<NonNull<u8>, AllocOnError> {
        Ok(self.on(node)?.try_alloc(layout)?)
    }

    /// Returns an object of `class` of the slabs of `home`, another node than the CPU's own.
    fn alloc_class_on(
        &self,
        pin: &CpuPin,
        home: NodeId,
        class: SizeClass,
    ) -> Result<NonNull<u8>, AllocError> {
        match self.alloc_shared(pin, home, class, self.patience(pin)) {
            Err(AllocError::OutOfMemory) => {}
            other => return other,
        }
        self.reclaim(pin);
        match self.alloc_shared(pin, home, class, self.patience(pin)) {
            Err(AllocError::OutOfMemory) => self.alloc_anywhere(pin, class),
            other => other,
        }
    }
}

/// A heap for allocations on one node, created by [`Heap::on`].
///
/// The handle is an [`Allocator`](allocator_api2::alloc::Allocator), so containers can be placed on
/// a node. Its memory belongs to the heap: [`Heap::free`] frees it, on any CPU.
pub struct OnNode<'h, P: Platform, S: PageSource> {
    pub(super) heap: &'h Heap<P, S>,
    /// A node with memory.
    home: NodeId,
}

impl<'h, P: Platform, S: PageSource> OnNode<'h, P, S> {
    /// Returns the heap.
    #[must_use]
    pub const fn heap(&self) -> &'h Heap<P, S> {
        self.heap
    }

    /// Returns the node of the handle's allocations: the requested node, or the nearest with
    /// memory.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{Heap, NodeId};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// assert_eq!(heap.on(NodeId::ZERO)?.node(), NodeId::ZERO);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.home
    }

    /// Allocates memory for `layout` on the node: aligned, uninitialised, owned by the caller until
    /// [`Heap::free`]. If the node is full, the memory comes from another node, as near as the
    /// page source can provide.
    ///
    /// Cost on CPUs of the node: as for [`Heap::try_alloc`]. Cost on remote CPUs: the lock of the
    /// node's slabs of this size, since a CPU caches objects of its own node only.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError::OutOfMemory`] if no node has memory, and [`AllocError::TooLarge`] if
    /// the layout is larger than the largest run of pages.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::{Heap, NodeId};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let layout = Layout::new::<[u64; 8]>();
    /// let memory = heap.on(NodeId::ZERO)?.try_alloc(layout)?;
    /// // SAFETY: allocated above with the layout, and not used any more.
    /// unsafe { heap.free(memory, layout)? };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub fn try_alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let pin = self.heap.platform.pin();
        if self.heap.source.node_of_cpu(pin.cpu()) == self.home {
            return self.heap.try_alloc(layout);
        }
        #[cfg(feature = "hardening")]
        if self.heap.hardening.is_some() {
            return self.heap.alloc_hardened_by(layout, Site::here(), |outer| self.alloc_plain(&pin, outer));
        }
        self.alloc_plain(&pin, layout)
    }

    /// Allocates from another node's CPU, without hardening measures.
    fn alloc_plain(&self, pin: &CpuPin, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        let Some(class) = SizeClass::of(layout) else {
            return self.heap.alloc_large_near(pin, self.home, layout, Contents::Arbitrary);
        };
        let object = self.heap.alloc_class_on(pin, self.home, class)?;
        if CHECKED {
            mark_live(class, object);
        }
        Ok(object)
    }

    /// Allocates memory like [`OnNode::try_alloc`], all bytes zero.
    ///
    /// # Errors
    ///
    /// As for [`OnNode::try_alloc`].
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub fn try_alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() > MAX_CLASS_SIZE && !self.heap.is_hardened() {
            let pin = self.heap.platform.pin();
            if self.heap.source.node_of_cpu(pin.cpu()) == self.home {
                return self.heap.try_alloc_zeroed(layout);
            }
            return self.heap.alloc_large_near(&pin, self.home, layout, Contents::Zeroed);
        }
        let memory = self.try_alloc(layout)?;
        // SAFETY: `try_alloc` returned that many bytes, owned here.
        unsafe { memory.write_bytes(0, layout.size()) };
        Ok(memory)
    }
}

impl<P: Platform, S: PageSource> Clone for OnNode<'_, P, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform, S: PageSource> Copy for OnNode<'_, P, S> {}

impl<P: Platform, S: PageSource> fmt::Debug for OnNode<'_, P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnNode").field(&self.home).finish()
    }
}
