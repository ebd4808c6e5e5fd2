//! Moving pages to other nodes.

use core::fmt;

use topomem_numa::frames::{AllocError, Policy};
use topomem_percpu::{CpuPin, NodeId, PhysFrame};
use topomem_shootdown::VirtAddr;

use super::transfer::{Settled, Transfer};
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Found, Level, Ownership, Pages};

/// Number of pages moved together, with a single round of interrupts.
pub(super) const BATCH: usize = 64;

/// Number of attempts to move a page kept in place by its use.
const TRIES: usize = 10;

/// The reason why a page did not move.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{NodeId, VirtAddr};
/// use topomem::region::{MoveError, PageMove};
///
/// let space = service.create_space(pin)?;
/// let mut moves = [PageMove::new(VirtAddr::new(0x1000)?, NodeId::ZERO)];
/// space.move_pages(pin, &mut moves);
/// assert!(matches!(moves[0].outcome(), Some(Err(_)))); // nothing is mapped there
/// # let _: Option<MoveError> = None;
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MoveError {
    /// The page belongs to no region, or is mapped to the frame of zeros shared by all spaces
    /// (move_pages of Linux: EFAULT).
    NotMovable,
    /// The page is not mapped yet (ENOENT).
    NotPresent,
    /// The page's frame is shared with other spaces or an object (EACCES). Linux moves such pages
    /// with MPOL_MF_MOVE_ALL, and answers EACCES without. Here they stay, since the holders of a
    /// frame are counted and not listed.
    Shared,
    /// The page was changed at each attempt (EBUSY).
    Busy,
    /// The node has no frame for the page (ENOMEM).
    OutOfFrames(AllocError),
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MoveError::NotMovable => f.write_str("the page belongs to no region, or is the page of zeros"),
            MoveError::NotPresent => f.write_str("the page is not mapped yet"),
            MoveError::Shared => f.write_str("other spaces have the page's frame, too"),
            MoveError::Busy => f.write_str("the page was changed each time it was tried"),
            MoveError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MoveError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            MoveError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

/// A page to be moved to a node, and the outcome.
///
/// ```
/// use topomem::region::PageMove;
/// use topomem::{NodeId, VirtAddr};
///
/// let page = PageMove::new(VirtAddr::new_truncate(0x40_0123), NodeId::ZERO);
/// assert_eq!(page.address().as_u64(), 0x40_0000);
/// assert_eq!(page.outcome(), None);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PageMove {
    pub(super) page: u64,
    pub(super) to: Target,
    pub(super) outcome: Option<Result<NodeId, MoveError>>,
    pub(super) stage: Stage,
}

/// Where a page moves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// To this node.
    Node(NodeId),
    /// To a place that conforms to the policy of all pages of the transfer.
    Conforming,
}

/// The progress of a page's move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not begun, or over.
    Idle,
    /// A frame is allocated, of the size of the page's leaf of this level.
    Ready(PhysFrame, Level),
    /// Also, no program can use the page, except through translations still held by CPUs.
    Hidden(PhysFrame, Level),
}

impl PageMove {
    /// Requests the page with the byte at `address` to be moved to the node `to`. A large page
    /// moves as a whole.
    #[must_use]
    pub const fn new(address: VirtAddr, to: NodeId) -> PageMove {
        PageMove::of_page(address.as_u64() >> 12, Target::Node(to))
    }

    pub(super) const fn of_page(page: u64, to: Target) -> PageMove {
        PageMove { page, to, outcome: None, stage: Stage::Idle }
    }

    /// Returns the start of the page.
    ///
    /// ```
    /// use topomem::region::PageMove;
    /// use topomem::{NodeId, VirtAddr};
    ///
    /// let address = VirtAddr::new(0x1000).unwrap();
    /// assert_eq!(PageMove::new(address, NodeId::ZERO).address(), address);
    /// ```
    #[must_use]
    pub fn address(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.page << 12)
    }

    /// Returns the page's node after the move, or the reason why the page did not move. `None`
    /// before an attempt.
    #[must_use]
    pub const fn outcome(&self) -> Option<Result<NodeId, MoveError>> {
        self.outcome
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Moves pages to other nodes, while programs read and write them: each page gets a frame of
    /// the requested node, with the contents of the old frame. Each [`PageMove`] gets the outcome
    /// of its page.
    ///
    /// Up to 64 pages are taken from all CPUs together, with a single round of interrupts, then
    /// copied and given back. A program accessing such a page meanwhile waits for the page, or gets
    /// it back unchanged if the move takes long; the page is then tried again. Waits until no CPU
    /// can use the old frames, and serves remote CPUs' shootdowns meanwhile. Not for interrupt
    /// handlers.
    ///
    /// Cost: three claims and the copy for each page.
    ///
    /// ```
    /// # use topomem::sim::Sim;
    /// use topomem::region::{FaultAccess, MapRequest, PageFault, PageMove};
    /// use topomem::{CpuId, NodeId};
    ///
    /// # let sim = Sim::builder().nodes(2).memory(64 << 20).build()?;
    /// # let service = sim.boot_service()?;
    /// # sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(4096))?;
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// let other = NodeId::new(1).unwrap();
    /// let mut moves = [PageMove::new(start, other)];
    /// space.move_pages(pin, &mut moves);
    /// assert_eq!(moves[0].outcome(), Some(Ok(other)));
    /// assert_eq!(space.node_of_page(pin, start), Ok(other));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn move_pages(&self, pin: &CpuPin, moves: &mut [PageMove]) {
        self.move_conforming(pin, moves, &Policy::Local);
    }

    /// Moves pages like [`AddressSpace::move_pages`]; those that are to conform to a policy, to places that conform to
    /// `policy`.
    pub(super) fn move_conforming(&self, pin: &CpuPin, moves: &mut [PageMove], policy: &Policy) {
        for moves in moves.chunks_mut(BATCH) {
            let mut transfer = Transfer::new(self.core(), moves, policy);
            for _ in 0..TRIES {
                if !transfer.prepare(pin) {
                    break;
                }
                transfer.hide(pin).wait(pin);
                while let Settled::Later(unmapping) = transfer.settle(pin) {
                    unmapping.wait(pin);
                }
            }
        }
    }

    /// Moves pages like [`AddressSpace::move_pages`] without blocking: waits for remote CPUs by
    /// `.await`. The future may be dropped at any time: pages on their way are given back
    /// unchanged.
    ///
    /// Programs accessing pages on their way wait for the polling task, which should run soon.
    pub async fn move_pages_async(&self, moves: &mut [PageMove]) {
        self.move_conforming_async(moves, &Policy::Local).await;
    }

    /// Moves pages like [`AddressSpace::move_conforming`] and [`AddressSpace::move_pages_async`].
    pub(super) async fn move_conforming_async(&self, moves: &mut [PageMove], policy: &Policy) {
        let platform = *self.core().service.platform();
        for moves in moves.chunks_mut(BATCH) {
            let mut transfer = Transfer::new(self.core(), moves, policy);
            for _ in 0..TRIES {
                if !transfer.prepare(&platform.pin()) {
                    break;
                }
                let hidden = transfer.hide(&platform.pin());
                hidden.await;
                loop {
                    let settled = transfer.settle(&platform.pin());
                    match settled {
                        Settled::All => break,
                        Settled::Later(unmapping) => unmapping.await,
                    }
                }
            }
        }
    }

    /// Returns the node of the frame mapped by the page with the byte at `address`.
    ///
    /// # Errors
    ///
    /// - [`MoveError::NotMovable`] if the page belongs to no region or is mapped to the frame of
    ///   zeros.
    /// - [`MoveError::NotPresent`] if the page is not mapped yet.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::NodeId;
    /// use topomem::region::{FaultAccess, MapRequest, PageFault};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// assert_eq!(space.node_of_page(pin, start), Ok(NodeId::ZERO));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn node_of_page(&self, pin: &CpuPin, address: VirtAddr) -> Result<NodeId, MoveError> {
        let page = address.as_u64() >> 12;
        let core = self.core();
        if !self.may_map(Pages { first: page, last: page }) {
            return Err(MoveError::NotMovable);
        }
        let (found, level) = core.table.look(core.service.tables(pin), page);
        match found {
            Found::Vacant | Found::Mapped(_, None) => Err(MoveError::NotMovable),
            Found::Reserved(_) => Err(MoveError::NotPresent),
            Found::Mapped(leaf, Some(_)) if leaf.ownership == Ownership::Borrowed => {
                Err(MoveError::NotMovable)
            }
            Found::Mapped(leaf, Some(_)) => {
                let frame = leaf.frame + page % level.pages();
                core.service.frames().node_of(frame).ok_or(MoveError::NotMovable)
            }
        }
    }
}
