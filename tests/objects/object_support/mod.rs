//! A simulated machine with objects, and a file with a pager.
#![allow(dead_code, reason = "not each test program uses all of it")]

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use topomem::object::{MemoryObject, ObjectMapping, Pager, PagerError, PagerQueue};
use topomem::region::{FaultError, MapRequest, Placement, Sharing};
use topomem::sim::{Sim, SimService};
use topomem::{CpuId, CpuPin, VirtAddr};

#[path = "../../regions/space_support/mod.rs"]
mod spaces;
pub(crate) use spaces::{Space, at, run_pending_work};

pub(crate) type Machine = &'static Sim;
pub(crate) type Object = MemoryObject<Machine>;

/// Accesses the first word of `page` of `space`, which becomes the active one, as a program does.
pub(crate) fn touch(
    sim: &'static Sim,
    pin: &CpuPin,
    space: &Space,
    page: u64,
    store: Option<u64>,
) -> Result<u64, FaultError> {
    touch_at(sim, pin, space, at(page), store)
}

/// Accesses the word at `address` likewise.
pub(crate) fn touch_at(
    sim: &'static Sim,
    pin: &CpuPin,
    space: &Space,
    address: VirtAddr,
    store: Option<u64>,
) -> Result<u64, FaultError> {
    spaces::activate(space, pin);
    spaces::touch_at(sim, pin, space, address, store)
}

/// A machine, and how many frames it had in use before a test.
pub(crate) struct Bench {
    pub(crate) sim: &'static Sim,
    pub(crate) service: &'static SimService,
    before: u64,
}

impl Bench {
    pub(crate) fn new(cpus: usize) -> Bench {
        let sim: &'static Sim = Sim::builder().cpus(cpus).memory(64 << 20).build().unwrap();
        let service = sim.boot_service().unwrap();
        let before = spaces::allocated(service);
        Bench { sim, service, before }
    }

    pub(crate) fn on<T>(&self, body: impl FnOnce(&CpuPin) -> T) -> T {
        self.sim.on(CpuId::BOOT, body)
    }

    pub(crate) fn space(&self, pin: &CpuPin) -> Space {
        self.service.create_space(pin).unwrap()
    }

    #[allow(clippy::too_many_arguments, reason = "what mmap has")]
    pub(crate) fn map(
        &self,
        pin: &CpuPin,
        space: &Space,
        object: &Object,
        first: u64,
        count: u64,
        page: u64,
        sharing: Sharing,
    ) {
        let request = MapRequest::anonymous(count << 12).placed(Placement::Fixed(at(first)));
        let mapping = ObjectMapping::new(object, page << 12, sharing);
        space.mmap_object(pin, &request, mapping).unwrap();
    }

    pub(crate) fn load(&self, pin: &CpuPin, space: &Space, page: u64) -> u64 {
        touch(self.sim, pin, space, page, None).unwrap()
    }

    pub(crate) fn store(&self, pin: &CpuPin, space: &Space, page: u64, value: u64) {
        touch(self.sim, pin, space, page, Some(value)).unwrap();
    }

    pub(crate) fn load_at(&self, pin: &CpuPin, space: &Space, address: VirtAddr) -> u64 {
        touch_at(self.sim, pin, space, address, None).unwrap()
    }

    pub(crate) fn store_at(&self, pin: &CpuPin, space: &Space, address: VirtAddr, value: u64) {
        touch_at(self.sim, pin, space, address, Some(value)).unwrap();
    }

    pub(crate) fn relax(&self) {
        self.sim.take_interrupts();
        std::thread::yield_now();
    }

    pub(crate) fn poll<F: Future>(&self, future: Pin<&mut F>) {
        assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.sim.block_on(future, || {})
    }

    pub(crate) fn leave(&self, pin: &CpuPin) {
        spaces::deactivate(self.service, pin);
    }

    pub(crate) fn allocated(&self) -> u64 {
        spaces::allocated(self.service)
    }

    /// Drops all, and checks that no frame is missing.
    pub(crate) fn finish<const S: usize, const O: usize>(
        &self,
        pin: &CpuPin,
        spaces: [Space; S],
        objects: [Object; O],
    ) {
        self.leave(pin);
        drop(spaces);
        drop(objects);
        run_pending_work(self.sim, self.service, pin);
    }

    /// Waits until all frames are back.
    pub(crate) fn wait_for_frames(&self, pin: &CpuPin) {
        for _ in 0..100_000 {
            run_pending_work(self.sim, self.service, pin);
            if self.allocated() <= self.before + 1 {
                return;
            }
            self.relax();
        }
        panic!("{} frames are missing", self.allocated() - self.before);
    }

    /// Serves `file` on the calling CPU until `done`.
    pub(crate) fn serve_until(&self, file: &PagerFile, done: &AtomicBool) {
        let serve = file.requests.serve(self.service, file);
        let mut serve = Box::pin(serve);
        let mut context = Context::from_waker(Waker::noop());
        while !done.load(Ordering::Acquire) {
            assert!(serve.as_mut().poll(&mut context).is_pending(), "serving ends never");
            self.relax();
        }
    }

    /// Runs `body` on the boot CPU while the next one serves `file`; no frame is missing afterwards.
    pub(crate) fn serve_while(&self, file: &PagerFile, body: impl Fn(&CpuPin) + Sync) {
        let done = AtomicBool::new(false);
        self.sim.run(|pin| {
            if pin.cpu() == CpuId::BOOT {
                let _done = SetOnDrop(&done);
                body(pin);
            } else if pin.cpu().index() == 1 {
                self.serve_until(file, &done);
            }
        });
        self.on(|pin| run_pending_work(self.sim, self.service, pin));
    }
}

/// Sets the flag that ends [`Bench::serve_until`], also if the context that needs the pages panics.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.on(|pin| run_pending_work(self.sim, self.service, pin));
            assert_eq!(self.allocated(), self.before, "frames leaked");
        }
    }
}

/// A file in the host's memory, and what was asked of it.
pub(crate) struct PagerFile {
    pub(crate) requests: &'static PagerQueue<Machine>,
    bytes: Mutex<Vec<u8>>,
    lengths: Mutex<Vec<usize>>,
    discarded: Mutex<Vec<Range<u64>>>,
    reads: AtomicU64,
    writes: AtomicU64,
    fails: AtomicBool,
    held: AtomicBool,
}

impl PagerFile {
    /// A file of `pages` pages; the first word of each says which.
    pub(crate) fn new(bench: &Bench, pages: u64) -> PagerFile {
        let mut bytes = vec![0xaa; (pages as usize) << 12];
        for page in 0..pages {
            let word = 0xf11e_0000 + page;
            bytes[(page as usize) << 12..][..8].copy_from_slice(&word.to_le_bytes());
        }
        PagerFile {
            requests: Box::leak(Box::new(PagerQueue::new(bench.sim))),
            bytes: Mutex::new(bytes),
            lengths: Mutex::new(vec![0; pages as usize]),
            discarded: Mutex::default(),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            held: AtomicBool::new(false),
        }
    }

    pub(crate) fn object(&self, bench: &Bench, pin: &CpuPin, bytes: u64) -> Object {
        MemoryObject::paged(bench.service, pin, bytes, self.requests, 7).unwrap()
    }

    pub(crate) fn initial(&self, page: u64) -> u64 {
        0xf11e_0000 + page
    }

    pub(crate) fn word(&self, page: u64) -> u64 {
        let bytes = self.bytes.lock().unwrap();
        u64::from_le_bytes(bytes[(page as usize) << 12..][..8].try_into().unwrap())
    }

    /// Cuts the file: what lies behind is zero.
    pub(crate) fn cut(&self, pages: u64) {
        self.bytes.lock().unwrap()[(pages as usize) << 12..].fill(0);
    }

    pub(crate) fn last_length(&self, page: u64) -> usize {
        self.lengths.lock().unwrap()[page as usize]
    }

    pub(crate) fn discarded(&self) -> Vec<(u64, u64)> {
        self.discarded.lock().unwrap().iter().map(|range| (range.start, range.end)).collect()
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Acquire)
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    pub(crate) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Release);
    }

    /// Requests are not answered while the file is held.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Release);
    }

    async fn released(&self) {
        std::future::poll_fn(|_| match self.held.load(Ordering::Acquire) {
            // The test polls all the time.
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    fn outcome(&self) -> Result<(), PagerError> {
        if self.fails.load(Ordering::Acquire) { Err(PagerError::Failed) } else { Ok(()) }
    }
}

impl Pager for PagerFile {
    async fn read_in(&self, key: u64, offset: u64, page: &mut [u8]) -> Result<(), PagerError> {
        assert_eq!(key, 7);
        assert!(page.iter().all(|&byte| byte == 0));
        self.released().await;
        let bytes = self.bytes.lock().unwrap();
        page.copy_from_slice(&bytes[offset as usize..][..4096]);
        self.reads.fetch_add(1, Ordering::AcqRel);
        self.outcome()
    }

    async fn write_back(&self, _: u64, offset: u64, page: &[u8]) -> Result<(), PagerError> {
        self.writes.fetch_add(1, Ordering::AcqRel);
        self.released().await;
        self.outcome()?;
        self.lengths.lock().unwrap()[offset as usize >> 12] = page.len();
        self.bytes.lock().unwrap()[offset as usize..][..page.len()].copy_from_slice(page);
        Ok(())
    }

    async fn discard(&self, _: u64, range: Range<u64>) -> Result<(), PagerError> {
        self.bytes.lock().unwrap()[range.start as usize..range.end as usize].fill(0);
        self.discarded.lock().unwrap().push(range);
        self.outcome()
    }
}
