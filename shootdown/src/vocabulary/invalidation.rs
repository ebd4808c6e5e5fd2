//! Invalidations: the translations to remove.

use crate::{PageRange, PageSize, VirtAddr};

/// The changed translations of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Translations of these pages (in the kernel's domain, global translations too).
    Pages(PageRange),
    /// All translations not global.
    NonGlobal,
    /// All translations of the domain: the kernel's are global, an address space's are not.
    Domain,
    /// All translations of every domain, global ones included.
    Everything,
}

/// Whether page-table pages were unlinked, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// Only leaf entries changed. CPUs lazy in the domain are skipped.
    Kept,
    /// Page-table pages are to be freed. A CPU's page walker goes on reading them speculatively,
    /// even while the CPU is lazy or idle; no CPU is therefore skipped.
    Freed,
}

/// A change of page tables to be announced to the CPUs.
///
/// ```
/// use topomem_shootdown::{Invalidation, PageSize, Scope, Tables, VirtAddr};
///
/// let page = VirtAddr::new_truncate(0x20_0000);
/// let unmapped = Invalidation::page(page, PageSize::Size4KiB).with_tables_freed();
/// assert!(matches!(unmapped.scope(), Scope::Pages(range) if range.pages() == 1));
/// assert_eq!(unmapped.tables(), Tables::Freed);
/// ```
#[must_use = "nothing is invalidated until it is issued"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidation {
    pub(crate) scope: Scope,
    pub(crate) tables: Tables,
}

impl Invalidation {
    /// Invalidates the page of `size` around `address`.
    ///
    /// ```
    /// use topomem_shootdown::{Invalidation, PageSize, Tables, VirtAddr};
    ///
    /// let change = Invalidation::page(VirtAddr::new_truncate(0x1000), PageSize::Size4KiB);
    /// assert_eq!(change.tables(), Tables::Kept);
    /// ```
    pub const fn page(address: VirtAddr, size: PageSize) -> Invalidation {
        Invalidation::pages(PageRange::page(address, size))
    }

    /// Invalidates the pages of `range`.
    ///
    /// ```
    /// use topomem_shootdown::{Invalidation, PageRange, PageSize, Scope, VirtAddr};
    ///
    /// let range = PageRange::new(VirtAddr::new_truncate(0x4000), 3, PageSize::Size4KiB)?;
    /// assert_eq!(Invalidation::pages(range).scope(), Scope::Pages(range));
    /// # Ok::<(), topomem_shootdown::PageRangeError>(())
    /// ```
    pub const fn pages(range: PageRange) -> Invalidation {
        Invalidation { scope: Scope::Pages(range), tables: Tables::Kept }
    }

    /// Invalidates all of the domain's translations not global.
    ///
    /// ```
    /// use topomem_shootdown::{Invalidation, Scope};
    ///
    /// assert_eq!(Invalidation::non_global().scope(), Scope::NonGlobal);
    /// ```
    pub const fn non_global() -> Invalidation {
        Invalidation { scope: Scope::NonGlobal, tables: Tables::Kept }
    }

    /// Invalidates all of the domain's translations: in the kernel's domain, global translations
    /// too.
    ///
    /// ```
    /// use topomem_shootdown::{Invalidation, Scope};
    ///
    /// assert_eq!(Invalidation::domain().scope(), Scope::Domain);
    /// ```
    pub const fn domain() -> Invalidation {
        Invalidation { scope: Scope::Domain, tables: Tables::Kept }
    }

    /// Invalidates every translation of every CPU, global translations included.
    ///
    /// Global translations outlive a switch of address spaces. The invalidation therefore always
    /// belongs to the kernel's domain, whatever domain is passed with it.
    ///
    /// ```
    /// use topomem_shootdown::{Invalidation, Scope};
    ///
    /// assert_eq!(Invalidation::everything().scope(), Scope::Everything);
    /// ```
    pub const fn everything() -> Invalidation {
        Invalidation { scope: Scope::Everything, tables: Tables::Kept }
    }

    /// Adds page-table pages to be freed when the invalidation completes.
    ///
    /// ```
    /// use topomem_shootdown::{Invalidation, Tables};
    ///
    /// assert_eq!(Invalidation::domain().tables(), Tables::Kept);
    /// assert_eq!(Invalidation::domain().with_tables_freed().tables(), Tables::Freed);
    /// ```
    pub const fn with_tables_freed(mut self) -> Invalidation {
        self.tables = Tables::Freed;
        self
    }

    /// Returns the translations to remove.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// Returns whether page-table pages were unlinked, too.
    #[must_use]
    pub const fn tables(&self) -> Tables {
        self.tables
    }
}
