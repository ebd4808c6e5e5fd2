//! Forwarding of a page source's methods to another source: of [`PageSource`]s that wrap one, and of references.

use crate::PageSource;

/// Defines the named methods of a [`PageSource`] as those of another source.
///
/// `this` stands for `&self` in the expression, which returns a reference to the other source. The
/// method `reports` stands for [`PageSource::refused`], and for `reported` and `caller` if the
/// features with these methods are on.
///
/// The methods' promises are those of the other source: name them in the `SAFETY` comment of the
/// implementation.
///
/// ```
/// use core::ptr::NonNull;
/// use core::sync::atomic::{AtomicU64, Ordering};
/// use topomem_percpu::{CpuPin, NodeId, Order, OutOfMemory, PageSource, forward_page_source};
///
/// /// Counts the pages that a heap has.
/// struct Counted<S> {
///     pages: AtomicU64,
///     source: S,
/// }
///
/// // SAFETY: runs are those of the source behind.
/// unsafe impl<S: PageSource> PageSource for Counted<S> {
///     fn allocate(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
///         let run = self.source.allocate(pin, node, order)?;
///         self.pages.fetch_add(order.frames(), Ordering::Relaxed);
///         Ok(run)
///     }
///     unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order) {
///         self.pages.fetch_sub(order.frames(), Ordering::Relaxed);
///         // SAFETY: the caller's promise is the same.
///         unsafe { self.source.free(pin, run, order) };
///     }
///     forward_page_source!(|this| &this.source; node_of_cpu, node_with_memory, reports);
/// }
/// ```
#[macro_export]
macro_rules! forward_page_source {
    (|$this:ident| $source:expr; $($method:ident),+ $(,)?) => {
        $($crate::__forward_page_source_method! { $method $this $source })+
    };
}

/// Defines a method of [`forward_page_source`].
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_page_source_method {
    (allocate $this:ident $source:expr) => {
        fn allocate(
            &self,
            pin: &$crate::CpuPin,
            node: $crate::NodeId,
            order: $crate::Order,
        ) -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory> {
            let $this = self;
            $crate::PageSource::allocate($source, pin, node, order)
        }
    };
    (free $this:ident $source:expr) => {
        unsafe fn free(&self, pin: &$crate::CpuPin, run: core::ptr::NonNull<u8>, order: $crate::Order) {
            let $this = self;
            let source = $source;
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::PageSource::free(source, pin, run, order) };
        }
    };
    (allocate_run $this:ident $source:expr) => {
        fn allocate_run(
            &self,
            pin: &$crate::CpuPin,
            node: $crate::NodeId,
            length: $crate::RunLength,
            align: $crate::Order,
        ) -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory> {
            let $this = self;
            $crate::PageSource::allocate_run($source, pin, node, length, align)
        }
    };
    (allocate_run_zeroed $this:ident $source:expr) => {
        fn allocate_run_zeroed(
            &self,
            pin: &$crate::CpuPin,
            node: $crate::NodeId,
            length: $crate::RunLength,
            align: $crate::Order,
        ) -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory> {
            let $this = self;
            $crate::PageSource::allocate_run_zeroed($source, pin, node, length, align)
        }
    };
    (free_run $this:ident $source:expr) => {
        unsafe fn free_run(
            &self,
            pin: &$crate::CpuPin,
            run: core::ptr::NonNull<u8>,
            length: $crate::RunLength,
        ) {
            let $this = self;
            let source = $source;
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::PageSource::free_run(source, pin, run, length) };
        }
    };
    (extend_run $this:ident $source:expr) => {
        unsafe fn extend_run(
            &self,
            pin: &$crate::CpuPin,
            run: core::ptr::NonNull<u8>,
            from: $crate::RunLength,
            to: $crate::RunLength,
        ) -> Result<(), $crate::NotInPlace> {
            let $this = self;
            let source = $source;
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::PageSource::extend_run(source, pin, run, from, to) }
        }
    };
    (shrink_run $this:ident $source:expr) => {
        unsafe fn shrink_run(
            &self,
            pin: &$crate::CpuPin,
            run: core::ptr::NonNull<u8>,
            from: $crate::RunLength,
            to: $crate::RunLength,
        ) -> Result<(), $crate::NotInPlace> {
            let $this = self;
            let source = $source;
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::PageSource::shrink_run(source, pin, run, from, to) }
        }
    };
    (wants_range $this:ident $source:expr) => {
        fn wants_range(&self, pages: u64) -> bool {
            let $this = self;
            $crate::PageSource::wants_range($source, pages)
        }
    };
    (allocate_range $this:ident $source:expr) => {
        fn allocate_range(
            &self,
            pin: &$crate::CpuPin,
            node: $crate::NodeId,
            pages: u64,
            align: $crate::Order,
        ) -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory> {
            let $this = self;
            $crate::PageSource::allocate_range($source, pin, node, pages, align)
        }
    };
    (allocate_range_zeroed $this:ident $source:expr) => {
        fn allocate_range_zeroed(
            &self,
            pin: &$crate::CpuPin,
            node: $crate::NodeId,
            pages: u64,
            align: $crate::Order,
        ) -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory> {
            let $this = self;
            $crate::PageSource::allocate_range_zeroed($source, pin, node, pages, align)
        }
    };
    (range_at $this:ident $source:expr) => {
        fn range_at(&self, pin: &$crate::CpuPin, memory: core::ptr::NonNull<u8>) -> Option<u64> {
            let $this = self;
            $crate::PageSource::range_at($source, pin, memory)
        }
    };
    (free_range $this:ident $source:expr) => {
        unsafe fn free_range(
            &self,
            pin: &$crate::CpuPin,
            range: core::ptr::NonNull<u8>,
        ) -> Result<(), $crate::NotInPlace> {
            let $this = self;
            let source = $source;
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::PageSource::free_range(source, pin, range) }
        }
    };
    (resize_range $this:ident $source:expr) => {
        unsafe fn resize_range(
            &self,
            pin: &$crate::CpuPin,
            range: core::ptr::NonNull<u8>,
            pages: u64,
        ) -> Result<core::ptr::NonNull<u8>, $crate::NotInPlace> {
            let $this = self;
            let source = $source;
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::PageSource::resize_range(source, pin, range, pages) }
        }
    };
    (node_of_cpu $this:ident $source:expr) => {
        fn node_of_cpu(&self, cpu: $crate::CpuId) -> $crate::NodeId {
            let $this = self;
            $crate::PageSource::node_of_cpu($source, cpu)
        }
    };
    (node_with_memory $this:ident $source:expr) => {
        fn node_with_memory(&self, node: $crate::NodeId) -> Option<$crate::NodeId> {
            let $this = self;
            $crate::PageSource::node_with_memory($source, node)
        }
    };
    (reports $this:ident $source:expr) => {
        fn refused(&self, invalid: $crate::InvalidFree) {
            let $this = self;
            $crate::PageSource::refused($source, invalid);
        }
        $crate::__forward_hardening_report! { $this $source }
        $crate::__forward_caller! { $this $source }
    };
}

/// Defines `reported`, a method with the feature `hardening`.
#[cfg(feature = "hardening")]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_hardening_report {
    ($this:ident $source:expr) => {
        fn reported(&self, report: &$crate::Report) {
            let $this = self;
            $crate::PageSource::reported($source, report);
        }
    };
}

/// Defines nothing: there is no `reported`.
#[cfg(not(feature = "hardening"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_hardening_report {
    ($this:ident $source:expr) => {};
}

/// Defines `caller`, a method with the feature `leak-tracking`.
#[cfg(feature = "leak-tracking")]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_caller {
    ($this:ident $source:expr) => {
        fn caller(&self) -> Option<$crate::Caller> {
            let $this = self;
            $crate::PageSource::caller($source)
        }
    };
}

/// Defines nothing: there is no `caller`.
#[cfg(not(feature = "leak-tracking"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_caller {
    ($this:ident $source:expr) => {};
}

// SAFETY: every method is the referenced source's own.
unsafe impl<S: PageSource + ?Sized> PageSource for &S {
    forward_page_source!(|this| *this;
        allocate, free, allocate_run, allocate_run_zeroed, free_run, extend_run, shrink_run, wants_range, allocate_range,
        allocate_range_zeroed, range_at, free_range, resize_range, node_of_cpu, node_with_memory, reports);
}
