//! A machine whose heap's reports are kept.
#![allow(dead_code, clippy::unwrap_used)]

use std::alloc::Layout;
use std::prelude::rust_2024::*;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use topomem_percpu::{CpuPin, Hardening, Heap, Order, PageSource, Report, forward_page_source};

use super::{Machine, become_cpu, pin};

/// The machine's pages, and what the heap reports about its users.
pub(crate) struct Recorder<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) reports: Mutex<Vec<Report>>,
    /// Words of [`SECRET`] in the pages that came back.
    pub(crate) secrets: AtomicUsize,
    /// The number of the caller that it names; none if zero.
    pub(crate) caller: AtomicUsize,
    /// How often the heap asked for it.
    pub(crate) asked: AtomicUsize,
}

pub(crate) const SECRET: u8 = 0xe7;

// SAFETY: the pages are the machine's.
unsafe impl PageSource for Recorder<'_> {
    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order) {
        // SAFETY: the run is the source's from here on.
        let bytes = unsafe { std::slice::from_raw_parts(run.as_ptr(), order.bytes() as usize) };
        self.secrets.fetch_add(bytes.chunks(8).filter(|&word| word == [SECRET; 8]).count(), Ordering::SeqCst);
        // SAFETY: the caller's promise is the same.
        unsafe { self.machine.free(pin, run, order) };
    }

    fn reported(&self, report: &Report) {
        self.reports.lock().unwrap().push(*report);
    }

    #[cfg(feature = "leak-tracking")]
    fn caller(&self) -> Option<topomem_percpu::Caller> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        topomem_percpu::Caller::new(self.caller.load(Ordering::Relaxed))
    }

    forward_page_source!(|this| this.machine; allocate, node_of_cpu);
}

pub(crate) type Hardened<'a> = Heap<&'a Machine, Recorder<'a>>;

pub(crate) fn heap(machine: &Machine, measures: Hardening) -> Hardened<'_> {
    let source = Recorder {
        machine,
        reports: Mutex::new(Vec::new()),
        secrets: AtomicUsize::new(0),
        caller: AtomicUsize::new(0),
        asked: AtomicUsize::new(0),
    };
    let heap = Heap::with_hardening(machine, source, measures);
    become_cpu(0);
    heap.cpu_online(&pin()).unwrap();
    heap
}

pub(crate) fn layout((size, align): (usize, usize)) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

pub(crate) fn reports(heap: &Hardened<'_>) -> Vec<Report> {
    std::mem::take(&mut heap.source().reports.lock().unwrap())
}

pub(crate) fn free(heap: &Hardened<'_>, memory: NonNull<u8>, layout: Layout) {
    // SAFETY: the tests free what they allocated, once.
    unsafe { heap.free(memory, layout) }.unwrap();
}
