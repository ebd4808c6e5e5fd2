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

/// Defines a method of [`forward_page_source`] by its name.
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_page_source_method {
    (allocate $($to:tt)+) => { $crate::__forward_safe! { $($to)+;
        allocate(pin: &$crate::CpuPin, node: $crate::NodeId, order: $crate::Order)
            -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory>
    } };
    (free $($to:tt)+) => { $crate::__forward_unsafe! { $($to)+;
        free(pin: &$crate::CpuPin, run: core::ptr::NonNull<u8>, order: $crate::Order) -> ()
    } };
    (allocate_run $($to:tt)+) => { $crate::__forward_safe! { $($to)+;
        allocate_run(pin: &$crate::CpuPin, node: $crate::NodeId, length: $crate::RunLength, align: $crate::Order)
            -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory>
    } };
    (allocate_run_zeroed $($to:tt)+) => { $crate::__forward_safe! { $($to)+;
        allocate_run_zeroed(pin: &$crate::CpuPin, node: $crate::NodeId, length: $crate::RunLength, align: $crate::Order)
            -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory>
    } };
    (free_run $($to:tt)+) => { $crate::__forward_unsafe! { $($to)+;
        free_run(pin: &$crate::CpuPin, run: core::ptr::NonNull<u8>, length: $crate::RunLength) -> ()
    } };
    (extend_run $($to:tt)+) => { $crate::__forward_unsafe! { $($to)+;
        extend_run(pin: &$crate::CpuPin, run: core::ptr::NonNull<u8>, from: $crate::RunLength, to: $crate::RunLength)
            -> Result<(), $crate::NotInPlace>
    } };
    (shrink_run $($to:tt)+) => { $crate::__forward_unsafe! { $($to)+;
        shrink_run(pin: &$crate::CpuPin, run: core::ptr::NonNull<u8>, from: $crate::RunLength, to: $crate::RunLength)
            -> Result<(), $crate::NotInPlace>
    } };
    (wants_range $($to:tt)+) => { $crate::__forward_safe! { $($to)+; wants_range(pages: u64) -> bool } };
    (allocate_range $($to:tt)+) => { $crate::__forward_safe! { $($to)+;
        allocate_range(pin: &$crate::CpuPin, node: $crate::NodeId, pages: u64, align: $crate::Order)
            -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory>
    } };
    (allocate_range_zeroed $($to:tt)+) => { $crate::__forward_safe! { $($to)+;
        allocate_range_zeroed(pin: &$crate::CpuPin, node: $crate::NodeId, pages: u64, align: $crate::Order)
            -> Result<core::ptr::NonNull<u8>, $crate::OutOfMemory>
    } };
    (range_at $($to:tt)+) => { $crate::__forward_safe! { $($to)+;
        range_at(pin: &$crate::CpuPin, memory: core::ptr::NonNull<u8>) -> Option<u64>
    } };
    (free_range $($to:tt)+) => { $crate::__forward_unsafe! { $($to)+;
        free_range(pin: &$crate::CpuPin, range: core::ptr::NonNull<u8>) -> Result<(), $crate::NotInPlace>
    } };
    (resize_range $($to:tt)+) => { $crate::__forward_unsafe! { $($to)+;
        resize_range(pin: &$crate::CpuPin, range: core::ptr::NonNull<u8>, pages: u64)
            -> Result<core::ptr::NonNull<u8>, $crate::NotInPlace>
    } };
    (node_of_cpu $($to:tt)+) => { $crate::__forward_safe! { $($to)+;
        node_of_cpu(cpu: $crate::CpuId) -> $crate::NodeId
    } };
    (node_with_memory $($to:tt)+) => { $crate::__forward_safe! { $($to)+;
        node_with_memory(node: $crate::NodeId) -> Option<$crate::NodeId>
    } };
    (reports $($to:tt)+) => {
        $crate::__forward_safe! { $($to)+; refused(invalid: $crate::InvalidFree) -> () }
        $crate::__forward_hardening_report! { $($to)+ }
        $crate::__forward_caller! { $($to)+ }
    };
}

/// Defines a safe method as the method of the same name of the other source.
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_safe {
    ($this:ident $source:expr; $name:ident($($parameter:ident: $type:ty),*) -> $result:ty) => {
        fn $name(&self, $($parameter: $type),*) -> $result {
            let $this = self;
            $crate::PageSource::$name($source, $($parameter),*)
        }
    };
}

/// Defines an unsafe method as the method of the same name of the other source.
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_unsafe {
    ($this:ident $source:expr; $name:ident($($parameter:ident: $type:ty),*) -> $result:ty) => {
        unsafe fn $name(&self, $($parameter: $type),*) -> $result {
            let $this = self;
            let source = $source;
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::PageSource::$name(source, $($parameter),*) }
        }
    };
}

/// Defines `reported`, a method with the feature `hardening`.
#[cfg(feature = "hardening")]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_hardening_report {
    ($($to:tt)+) => {
        $crate::__forward_safe! { $($to)+; reported(report: &$crate::Report) -> () }
    };
}

/// Defines nothing: there is no `reported`.
#[cfg(not(feature = "hardening"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_hardening_report {
    ($($to:tt)+) => {};
}

/// Defines `caller`, a method with the feature `leak-tracking`.
#[cfg(feature = "leak-tracking")]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_caller {
    ($($to:tt)+) => {
        $crate::__forward_safe! { $($to)+; caller() -> Option<$crate::Caller> }
    };
}

/// Defines nothing: there is no `caller`.
#[cfg(not(feature = "leak-tracking"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_caller {
    ($($to:tt)+) => {};
}

// SAFETY: every method is the referenced source's own.
unsafe impl<S: PageSource + ?Sized> PageSource for &S {
    forward_page_source!(|this| *this;
        allocate, free, allocate_run, allocate_run_zeroed, free_run, extend_run, shrink_run, wants_range, allocate_range,
        allocate_range_zeroed, range_at, free_range, resize_range, node_of_cpu, node_with_memory, reports);
}
