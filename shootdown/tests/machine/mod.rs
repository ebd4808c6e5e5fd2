//! A software machine: page tables of eight pages a space, one TLB per CPU that forgets nothing
//! by itself and tags what it holds, and interrupts that stay raised until the test delivers them.
#![allow(dead_code, clippy::unwrap_used)]

mod steps;

use std::cell::Cell;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use topomem_percpu::{CpuId, CpuPin, CpuSet, Platform};
use topomem_shootdown::{
    Asid, CpuState, PageRange, PageSize, RootLoad, Shootdown, SwitchFlushed, Ticks, Tlb, TlbFeatures,
    Unresponsive, VirtAddr,
};

#[allow(unused_imports, reason = "not every program of tests takes every step")]
pub(crate) use steps::{domain, enter, issue};

pub(crate) const PAGES: usize = 8;
/// Space 0 is the kernel's, whose translations are global.
pub(crate) const SPACES: usize = 3;
pub(crate) const CPUS: usize = 4;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

pub(crate) fn cpu(index: usize) -> CpuId {
    CpuId::new(index).unwrap()
}

/// The calling thread is CPU `index` from here on.
pub(crate) fn run_as(index: usize) -> CpuPin {
    CPU.with(|cpu| cpu.set(index));
    // SAFETY: one thread plays a CPU at a time, and the tests never take a thread off its CPU.
    unsafe { CpuPin::new(cpu(index)) }
}

pub(crate) fn address(space: usize, page: usize) -> VirtAddr {
    let half = if space == 0 { 0xffff_8000_0000_0000 } else { 0 };
    // The same in all spaces but the kernel's.
    VirtAddr::new(half + ((page as u64) << 12)).unwrap()
}

pub(crate) fn range(space: usize, first: usize, pages: usize) -> PageRange {
    PageRange::new(address(space, first), pages as u64, PageSize::Size4KiB).unwrap()
}

/// The tag of translations that are global.
const GLOBAL: u16 = u16::MAX;

/// What a CPU's TLB and its paging-structure caches hold.
#[derive(Default)]
pub(crate) struct Cached {
    asid: u16,
    /// By tag and address: the space, and the version.
    pages: HashMap<(u16, u64), (usize, u64)>,
    /// The version of the table that an ASID walks for the kernel's half, and for the other.
    ways: HashMap<(u16, bool), u64>,
}

impl Cached {
    fn tag(&self, space: usize) -> u16 {
        if space == 0 { GLOBAL } else { self.asid }
    }

    fn drop_pages(&mut self, gone: impl Fn(u16, u64) -> bool) {
        self.pages.retain(|&(tag, address), _| !gone(tag, address));
    }

    fn drop_ways(&mut self, gone: impl Fn(u16) -> bool) {
        self.ways.retain(|&(asid, _), _| !gone(asid));
    }

    fn drop_asid(&mut self, asid: u16) {
        self.drop_pages(|tag, _| tag == asid);
        self.drop_ways(|tag| tag == asid);
    }
}

/// A removal on all CPUs that has begun.
enum Broadcast {
    Pages(PageRange),
    All,
}

/// How the machine fails to do what it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Flaw {
    None,
    /// A flush of everything spares the ASIDs that are not current.
    SparesOtherAsids,
    /// A load that is to flush its ASID doesn't.
    FlushesNoAsid,
}

#[derive(Default)]
pub(crate) struct Flushes {
    pub(crate) page: AtomicUsize,
    pub(crate) non_global: AtomicUsize,
    pub(crate) all: AtomicUsize,
}

pub(crate) struct Machine {
    /// The version that each entry is at.
    pub(crate) entries: [[AtomicU64; PAGES]; SPACES],
    /// The version that each space's table is at.
    pub(crate) tables: [AtomicU64; SPACES],
    /// [`TlbFeatures`]' bits.
    pub(crate) features: AtomicU32,
    pub(crate) flaw: AtomicU32,
    broadcasts: [Mutex<Vec<Broadcast>>; CPUS],
    pub(crate) tlbs: [Mutex<Cached>; CPUS],
    pub(crate) raised: [AtomicBool; CPUS],
    pub(crate) sends: Mutex<Vec<CpuSet>>,
    pub(crate) flushes: [Flushes; CPUS],
    pub(crate) clock: AtomicU64,
    pub(crate) tick: u64,
    pub(crate) reports: Mutex<Vec<Unresponsive>>,
    /// How often stores to page tables were published.
    pub(crate) published: AtomicUsize,
    /// Run in the middle of each flush, of each sending and of each such publication.
    pub(crate) hook: Mutex<Option<fn(&'static Queue)>>,
    pub(crate) itself: Mutex<Option<&'static Queue>>,
}

pub(crate) type Queue = Shootdown<Machine>;

/// `value` for ever, where Miri's search for leaks finds it.
pub(crate) fn forever<T: Sync>(value: T) -> &'static T {
    static KEPT: Mutex<Vec<&'static dyn Sync>> = Mutex::new(Vec::new());
    let value: &'static T = Box::leak(Box::new(value));
    KEPT.lock().unwrap().push(value);
    value
}

/// A queue without CPUs, for ever.
pub(crate) fn offline_queue() -> &'static Queue {
    let machine = Machine {
        entries: Default::default(),
        tables: Default::default(),
        features: AtomicU32::new(0),
        flaw: AtomicU32::new(0),
        broadcasts: Default::default(),
        tlbs: Default::default(),
        raised: Default::default(),
        sends: Mutex::default(),
        flushes: Default::default(),
        clock: AtomicU64::new(0),
        tick: 1,
        reports: Mutex::default(),
        published: AtomicUsize::new(0),
        hook: Mutex::new(None),
        itself: Mutex::new(None),
    };
    let queue: &'static Queue = forever(Shootdown::new(machine));
    for index in 0..CPUS {
        assert!(queue.place(cpu(index), forever(CpuState::new())).is_ok());
    }
    *queue.tlb().itself.lock().unwrap() = Some(queue);
    queue
}

/// A queue with `cpus` online; the calling thread is CPU 0.
pub(crate) fn queue(cpus: usize) -> &'static Queue {
    let queue = offline_queue();
    for index in 0..cpus {
        queue.cpu_online(&run_as(index)).unwrap();
    }
    run_as(0);
    queue
}

impl Machine {
    fn here(&self) -> usize {
        self.current_cpu().index()
    }

    fn tlb(&self) -> std::sync::MutexGuard<'_, Cached> {
        self.tlbs[self.here()].lock().unwrap()
    }

    fn interrupt_me(&self) {
        let hook = *self.hook.lock().unwrap();
        let itself = *self.itself.lock().unwrap();
        if let (Some(hook), Some(itself)) = (hook, itself) {
            hook(itself);
        }
    }

    /// The version that the calling CPU uses for a page.
    pub(crate) fn access(&self, space: usize, page: usize) -> u64 {
        // The walk and the fill are one step, as a page walker's are to a flush.
        let mut tlb = self.tlb();
        let key = (tlb.tag(space), address(space, page).as_u64());
        if !tlb.pages.contains_key(&key) {
            self.walk(&mut tlb, space);
            tlb.pages.insert(key, (space, self.entries[space][page].load(Ordering::Relaxed)));
        }
        let (owner, version) = tlb.pages[&key];
        assert_eq!(owner, space, "a translation of another space was used");
        version
    }

    /// Remembers the way to the space's table, or finds it remembered.
    fn walk(&self, tlb: &mut Cached, space: usize) {
        let way = (tlb.asid, space == 0);
        tlb.ways.entry(way).or_insert_with(|| self.tables[space].load(Ordering::Relaxed));
    }

    /// The version of the table of `space`, kernel's or active, that CPU `index` walks.
    pub(crate) fn way(&self, index: usize, space: usize) -> Option<u64> {
        let tlb = self.tlbs[index].lock().unwrap();
        tlb.ways.get(&(tlb.asid, space == 0)).copied()
    }

    /// Puts another table in the place of the space's, and returns its version.
    pub(crate) fn replace_table(&self, space: usize) -> u64 {
        self.tables[space].fetch_add(1, Ordering::Relaxed) + 1
    }

    fn is_flawed(&self, flaw: Flaw) -> bool {
        self.flaw.load(Ordering::Relaxed) == flaw as u32
    }

    pub(crate) fn cached(&self, index: usize, space: usize, page: usize) -> Option<u64> {
        let tlb = self.tlbs[index].lock().unwrap();
        let cached = tlb.pages.get(&(tlb.tag(space), address(space, page).as_u64()));
        cached.filter(|&&(owner, _)| owner == space).map(|&(_, version)| version)
    }

    /// Changes a page's entry and returns its new version.
    pub(crate) fn change(&self, space: usize, page: usize) -> u64 {
        self.entries[space][page].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A CR3 write.
    pub(crate) fn load_root(&self, load: RootLoad) -> SwitchFlushed {
        let mut tlb = self.tlb();
        match load {
            RootLoad::Untagged => tlb.drop_asid(0),
            RootLoad::Keep(asid) => tlb.asid = asid.get(),
            RootLoad::Flush(asid) => {
                tlb.asid = asid.get();
                if !self.is_flawed(Flaw::FlushesNoAsid) {
                    tlb.drop_asid(asid.get());
                }
            }
        }
        SwitchFlushed::Yes
    }

    /// Delivers the interrupt raised for `index`, if one is.
    pub(crate) fn deliver(&self, queue: &Queue, index: usize) -> bool {
        let raised = self.raised[index].swap(false, Ordering::AcqRel);
        if raised {
            let _ = queue.on_ipi(&run_as(index));
        }
        raised
    }

    pub(crate) fn sent(&self) -> usize {
        self.sends.lock().unwrap().iter().map(CpuSet::len).sum()
    }
}

// SAFETY: the ids are the threads'; no test asks for memory.
unsafe impl Platform for Machine {
    fn current_cpu(&self) -> CpuId {
        cpu(CPU.with(Cell::get))
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }
}

// SAFETY: the TLB is the map: a flush removes what it names; `send_ipi` only delays, and the
// swap orders what came before.
unsafe impl Tlb for Machine {
    fn features(&self) -> TlbFeatures {
        TlbFeatures::from_bits(self.features.load(Ordering::Relaxed))
    }

    fn publish_tables(&self) {
        self.published.fetch_add(1, Ordering::Relaxed);
        self.interrupt_me();
    }

    fn flush_page(&self, page: VirtAddr, size: PageSize) {
        self.interrupt_me();
        self.flushes[self.here()].page.fetch_add(1, Ordering::Relaxed);
        let flushed = PageRange::page(page, size);
        let mut tlb = self.tlb();
        let current = tlb.asid;
        tlb.drop_pages(|tag, address| {
            (tag == current || tag == GLOBAL) && flushed.contains(VirtAddr::new(address).unwrap())
        });
        if !self.features().is_leaf_only() {
            tlb.drop_ways(|asid| asid == current);
        }
    }

    fn flush_non_global(&self) {
        self.interrupt_me();
        self.flushes[self.here()].non_global.fetch_add(1, Ordering::Relaxed);
        let mut tlb = self.tlb();
        let current = tlb.asid;
        tlb.drop_asid(current);
    }

    fn flush_all(&self) {
        self.interrupt_me();
        self.flushes[self.here()].all.fetch_add(1, Ordering::Relaxed);
        let mut tlb = self.tlb();
        let (current, spares) = (tlb.asid, self.is_flawed(Flaw::SparesOtherAsids));
        tlb.drop_pages(|tag, _| !spares || tag == current || tag == GLOBAL);
        tlb.drop_ways(|asid| !spares || asid == current);
    }

    // The ways stay: the queue does not flush by pages where tables go.
    fn flush_page_of(&self, asid: Asid, page: VirtAddr, size: PageSize) {
        self.interrupt_me();
        let flushed = PageRange::page(page, size);
        let mut tlb = self.tlb();
        assert_ne!(tlb.asid, asid.get());
        tlb.drop_pages(|tag, address| tag == asid.get() && flushed.contains(VirtAddr::new(address).unwrap()));
    }

    fn broadcast_pages(&self, range: PageRange) {
        self.interrupt_me();
        let limit = self.features().broadcast_pages().unwrap();
        assert!(range.pages() <= u64::from(limit.get()));
        self.broadcasts[self.here()].lock().unwrap().push(Broadcast::Pages(range));
    }

    fn broadcast_all(&self) {
        self.interrupt_me();
        self.broadcasts[self.here()].lock().unwrap().push(Broadcast::All);
    }

    fn broadcast_sync(&self) {
        self.interrupt_me();
        for broadcast in self.broadcasts[self.here()].lock().unwrap().drain(..) {
            for tlb in &self.tlbs {
                let mut tlb = tlb.lock().unwrap();
                match broadcast {
                    Broadcast::Pages(range) => {
                        tlb.drop_pages(|_, address| range.contains(VirtAddr::new(address).unwrap()));
                    }
                    Broadcast::All => {
                        tlb.drop_pages(|_, _| true);
                        tlb.drop_ways(|_| true);
                    }
                }
            }
        }
        self.interrupt_me();
    }

    fn send_ipi(&self, to: &CpuSet) {
        self.interrupt_me();
        assert!(!to.is_empty() && !to.contains(self.current_cpu()));
        self.sends.lock().unwrap().push(to.clone());
        for target in to.iter() {
            self.raised[target.index()].swap(true, Ordering::AcqRel);
        }
    }

    fn now(&self) -> Ticks {
        Ticks(self.clock.fetch_add(self.tick, Ordering::Relaxed))
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(1000)
    }

    fn on_unresponsive(&self, report: Unresponsive) {
        self.reports.lock().unwrap().push(report);
    }
}
