//! What an invalidation removes.

use crate::{PageRange, PageSize, VirtAddr};

/// Which translations of a domain have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Those of these pages (for the kernel's domain, global ones too).
    Pages(PageRange),
    /// All that are not global.
    NonGlobal,
    /// All that the domain has: the kernel's are global, an address space's are not.
    Domain,
    /// All of every domain, global ones included.
    Everything,
}

/// Were page-table pages unlinked, too?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// Only leaf entries changed. CPUs that are lazy in the domain are skipped.
    Kept,
    /// Page-table pages are to be freed. A CPU's page walker goes on reading them speculatively,
    /// even while the CPU is lazy or idle, so none is skipped.
    Freed,
}

/// One change of page tables that CPUs must hear of.
#[must_use = "nothing is invalidated until it is issued"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidation {
    pub(crate) scope: Scope,
    pub(crate) tables: Tables,
}

impl Invalidation {
    /// The one page of `size` that holds `address`.
    pub const fn page(address: VirtAddr, size: PageSize) -> Invalidation {
        Invalidation::pages(PageRange::page(address, size))
    }

    /// The pages of `range`.
    pub const fn pages(range: PageRange) -> Invalidation {
        Invalidation { scope: Scope::Pages(range), tables: Tables::Kept }
    }

    /// All of the domain's translations that are not global.
    pub const fn non_global() -> Invalidation {
        Invalidation { scope: Scope::NonGlobal, tables: Tables::Kept }
    }

    /// All of the domain's translations: for the kernel's domain, global ones too.
    pub const fn domain() -> Invalidation {
        Invalidation { scope: Scope::Domain, tables: Tables::Kept }
    }

    /// Every translation of every CPU, global ones included. Global translations outlive a
    /// switch of address spaces, so this is always an invalidation of the kernel's domain,
    /// whichever domain it is issued for.
    pub const fn everything() -> Invalidation {
        Invalidation { scope: Scope::Everything, tables: Tables::Kept }
    }

    /// The same, with page-table pages freed when it completes.
    pub const fn with_tables_freed(mut self) -> Invalidation {
        self.tables = Tables::Freed;
        self
    }

    /// Which translations it removes.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// Were page-table pages unlinked, too?
    #[must_use]
    pub const fn tables(&self) -> Tables {
        self.tables
    }
}
