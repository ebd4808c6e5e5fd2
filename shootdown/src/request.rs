//! What a waiter waits for.

use crate::Generation;

/// A point in a domain's invalidations, to wait for. Plain data: it keeps nothing alive.
///
/// Kept with frames that were unmapped, it tells ([`Shootdown::is_done`]) when to free them.
///
/// [`Shootdown::is_done`]: crate::Shootdown::is_done
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// The newest invalidation of the request.
    pub(crate) generation: Generation,
    /// The newest one that freed page-table pages, [`Generation::NONE`] where none did: lazy
    /// CPUs count as done with all that is newer.
    pub(crate) tables: Generation,
}

impl Request {
    /// Done at once.
    pub(crate) const NOTHING: Request = Request { generation: Generation::NONE, tables: Generation::NONE };

    /// The newest generation that it waits for; [`Generation::NONE`] where there was nothing to wait
    /// for.
    #[must_use]
    pub const fn generation(self) -> Generation {
        self.generation
    }

    /// Both requests of one domain as one: done when both are.
    #[must_use]
    pub fn merge(self, other: Request) -> Request {
        Request { generation: self.generation.max(other.generation), tables: self.tables.max(other.tables) }
    }
}
