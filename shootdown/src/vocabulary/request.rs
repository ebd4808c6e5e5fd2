//! Requests: points in a domain's invalidations to wait for.

use crate::Generation;

/// A point in a domain's invalidations to wait for. Plain data: a request keeps nothing alive.
///
/// A kernel keeps the request together with unmapped frames, and asks [`Shootdown::is_done`] when
/// to free the frames.
///
/// [`Shootdown::is_done`]: crate::Shootdown::is_done
///
/// ```
/// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
/// # use topomem_percpu::Platform;
/// # use topomem_shootdown::{Domain, Shootdown, Tlb};
/// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
/// # static SPACE: Domain = Domain::new();
/// # let pin = QUEUE.tlb().pin();
/// use topomem_shootdown::Invalidation;
///
/// let request = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain()).detach();
/// // Later, anywhere:
/// assert!(QUEUE.is_done(&SPACE, request));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// The newest invalidation of the request.
    pub(crate) generation: Generation,
    /// The newest invalidation with freed page-table pages, or [`Generation::NONE`] without any.
    /// Lazy CPUs count as done with newer generations.
    pub(crate) tables: Generation,
}

impl Request {
    /// A request done at once.
    pub(crate) const NOTHING: Request = Request { generation: Generation::NONE, tables: Generation::NONE };

    /// Returns the newest awaited generation, or [`Generation::NONE`] if nothing is awaited.
    #[must_use]
    pub const fn generation(self) -> Generation {
        self.generation
    }

    /// Merges two requests of the same domain: the result is done when both are.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/one_cpu.rs")); }
    /// # use topomem_percpu::Platform;
    /// # use topomem_shootdown::{Domain, Shootdown, Tlb};
    /// # static QUEUE: Shootdown<machine::OneCpu> = Shootdown::new(machine::OneCpu);
    /// # static SPACE: Domain = Domain::new();
    /// # let pin = QUEUE.tlb().pin();
    /// use topomem_shootdown::Invalidation;
    ///
    /// let first = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain()).detach();
    /// let second = QUEUE.invalidate(&pin, &SPACE, Invalidation::domain()).detach();
    /// assert_eq!(first.merge(second).generation(), second.generation());
    /// ```
    #[must_use]
    pub fn merge(self, other: Request) -> Request {
        Request { generation: self.generation.max(other.generation), tables: self.tables.max(other.tables) }
    }
}
