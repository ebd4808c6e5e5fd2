//! loom: `Heap::reclaim` as a whole beside allocations and frees of other CPUs. Pages go back to the source only
//! when nobody uses an object in them any more; and when all is freed, all of them are back.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use super::Heap;
use crate::heap::node::NodeHeap;
use crate::try_lock::Patience;
use crate::{CpuId, CpuPin, NodeId, Order, OutOfMemory, PageSource, PhysAddr, Platform, SizeClass};

/// Objects of the largest class, whose slabs have the fewest.
const CLASS: SizeClass = SizeClass::LARGEST;
/// How many runs an execution makes at most.
const RUNS: usize = 24;

loom::thread_local! {
    static CPU: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

/// The pin of the CPU that the thread plays.
fn pin() -> CpuPin {
    // SAFETY: each thread plays CPUs of its own while others run.
    unsafe { CpuPin::new(CpuId::new(CPU.with(std::cell::Cell::get)).unwrap()) }
}

fn become_cpu(cpu: usize) {
    CPU.with(|current| current.set(cpu));
}

struct Cpus;

// SAFETY: each thread plays CPUs of its own.
unsafe impl Platform for Cpus {
    fn current_cpu(&self) -> CpuId {
        pin().cpu()
    }

    fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
        unreachable!("the heap asks for no physical address")
    }

    fn relax(&self) {
        thread::yield_now();
    }
}

/// A run, and a cell for each of its parts as long as an object. Whoever uses an object writes to its cell, and the
/// source writes to all cells when it gives the run out, and when it gets it back. Without a happens-before from
/// user to user, loom reports the race.
struct Run {
    start: NonNull<u8>,
    layout: Layout,
    is_out: bool,
}

struct Pages {
    /// Never contended: no thread is switched inside.
    runs: Mutex<Vec<Run>>,
    cells: Vec<Vec<UnsafeCell<usize>>>,
    /// Is the second CPU on a node of its own?
    two_nodes: bool,
}

// SAFETY: runs are plain memory; loom checks the cells.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

fn touch(cell: &UnsafeCell<usize>) {
    // SAFETY: loom checks that nobody else is at it.
    cell.with_mut(|uses| unsafe { *uses += 1 });
}

impl Pages {
    fn new(two_nodes: bool) -> Pages {
        let cells = || (0..(128 << 10) / CLASS.size()).map(UnsafeCell::new).collect();
        Pages { runs: Mutex::default(), cells: (0..RUNS).map(|_| cells()).collect(), two_nodes }
    }

    fn out(&self) -> usize {
        self.runs.lock().unwrap().iter().filter(|run| run.is_out).count()
    }

    fn use_object(&self, object: NonNull<u8>) {
        let inside = |run: &Run| object.addr().get().checked_sub(run.start.addr().get());
        let found = {
            let runs = self.runs.lock().unwrap();
            let mut all = runs.iter().enumerate();
            all.find_map(|(index, run)| Some((index, inside(run).filter(|&at| at < run.layout.size())?)))
        };
        let (run, offset) = found.unwrap();
        touch(&self.cells[run][offset / CLASS.size()]);
    }
}

/// The heap's hold of the pages.
struct Source(Arc<Pages>);

// SAFETY: runs are apart, and aligned to their order.
unsafe impl PageSource for Source {
    fn allocate(&self, _: &CpuPin, _: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        let layout = Layout::from_size_align(order.bytes() as usize, order.bytes() as usize).unwrap();
        // SAFETY: the layout has bytes.
        let start = NonNull::new(unsafe { alloc(layout) }).unwrap();
        let index = {
            let mut runs = self.0.runs.lock().unwrap();
            runs.push(Run { start, layout, is_out: true });
            runs.len() - 1
        };
        self.0.cells[index].iter().for_each(touch);
        Ok(start)
    }

    unsafe fn free(&self, _: &CpuPin, start: NonNull<u8>, order: Order) {
        let index = {
            let mut runs = self.0.runs.lock().unwrap();
            let index = runs.iter().position(|run| run.start == start).unwrap();
            let run = &mut runs[index];
            assert!(run.is_out && run.layout.size() as u64 == order.bytes(), "given back twice");
            run.is_out = false;
            index
        };
        self.0.cells[index].iter().for_each(touch);
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        NodeId::new(if self.0.two_nodes { cpu.index() } else { 0 }).unwrap()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Only now, so that an address names one run.
        for run in self.runs.get_mut().unwrap() {
            // SAFETY: allocated with this layout, and the execution is over.
            unsafe { dealloc(run.start.as_ptr(), run.layout) };
        }
    }
}

struct Model {
    heap: Heap<Cpus, Source>,
    pages: Arc<Pages>,
}

/// An object on its way from one CPU to another.
struct Sent(NonNull<u8>);

// SAFETY: who has the value owns the object.
unsafe impl Send for Sent {}

impl Model {
    /// CPUs 0 and 1 are online.
    fn new(two_nodes: bool) -> Arc<Model> {
        let pages = Arc::new(Pages::new(two_nodes));
        let heap = Heap::new(Cpus, Source(pages.clone()));
        for cpu in [1, 0] {
            become_cpu(cpu);
            heap.cpu_online(&pin()).unwrap();
        }
        Arc::new(Model { heap, pages })
    }

    fn take(&self) -> Sent {
        let object = self.heap.try_alloc(CLASS.layout()).unwrap();
        self.pages.use_object(object);
        Sent(object)
    }

    fn give(&self, object: Sent) {
        self.pages.use_object(object.0);
        // SAFETY: the object is the caller's, and was allocated with this layout.
        unsafe { self.heap.free(object.0, CLASS.layout()) }.unwrap();
    }

    /// Nobody uses the heap, and no object is out. CPU 1 does its work once, and CPU 0 drains: then no slab is left,
    /// and without the heap no run.
    fn end(model: Arc<Model>) {
        become_cpu(1);
        model.heap.run_pending_work(&pin());
        become_cpu(0);
        model.heap.run_pending_work(&pin());
        model.heap.drain(&pin());
        let stats = model.heap.class_stats(CLASS);
        assert_eq!((stats.live, stats.cached, stats.free, stats.slabs), (0, 0, 0, 0));
        let Ok(model) = Arc::try_unwrap(model) else { panic!("all threads have ended") };
        let Model { heap, pages } = model;
        drop(heap);
        assert_eq!(pages.out(), 0);
    }
}

/// The first node's heap.
fn home(model: &Model) -> &NodeHeap {
    model.heap.existing(NodeId::ZERO).unwrap()
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 20_000;
    builder.check(model);
}

/// Two CPUs allocate first of all: each makes the node's heap, and both use the one that was published. The loser of
/// that race must see the winner's writes.
#[test]
fn two_cpus_make_the_heap_of_their_node_at_once() {
    explore(|| {
        let model = Model::new(false);
        assert!(model.heap.existing(NodeId::ZERO).is_none(), "the node's heap is made too soon for this");
        let other = model.clone();
        let user = thread::spawn(move || {
            become_cpu(1);
            let object = other.take();
            other.give(object);
            other.heap.drain(&pin());
        });
        let object = model.take();
        user.join().unwrap();
        model.give(object);
        Model::end(model);
    });
}

/// The other CPU's magazines and the depot hold objects, and the CPU allocates, frees and does what it was asked
/// for, whenever.
#[test]
fn reclaim_beside_a_cpu_of_the_node_takes_all_but_what_is_used() {
    explore(|| {
        let model = Model::new(false);
        become_cpu(1);
        let mut held: Vec<Sent> = (0..7).map(|_| model.take()).collect();
        let kept = held.pop().unwrap();
        held.into_iter().for_each(|object| model.give(object));
        become_cpu(0);
        let other = model.clone();
        let user = thread::spawn(move || {
            become_cpu(1);
            let object = other.take();
            other.give(kept);
            other.give(object);
            other.heap.run_pending_work(&pin());
        });
        model.heap.reclaim(&pin());
        user.join().unwrap();
        Model::end(model);
    });
}

/// Objects of this node are freed by a CPU of another, the last ones of their slab among them.
#[test]
fn reclaim_beside_remote_frees_takes_slabs_that_nobody_uses() {
    explore(|| {
        let model = Model::new(true);
        let sent = [model.take(), model.take()];
        let other = model.clone();
        let freer = thread::spawn(move || {
            become_cpu(1);
            sent.into_iter().for_each(|object| other.give(object));
        });
        model.heap.reclaim(&pin());
        let object = model.take();
        freer.join().unwrap();
        model.give(object);
        Model::end(model);
    });
}

/// An object comes home while one CPU of the node holds the lock, and another one collects what is noted: it is home
/// by then, or noted for the next [`Heap::run_pending_work`].
#[test]
fn frees_that_a_cpu_could_not_collect_are_collected_later() {
    explore(|| {
        let model = Model::new(true);
        let (sent, kept) = (model.take(), model.take());
        let other = model.clone();
        let freer = thread::spawn(move || {
            become_cpu(1);
            other.give(sent);
        });
        let other = model.clone();
        let holder = thread::spawn(move || {
            become_cpu(2);
            drop(home(&other).class(CLASS).shelf.lock(&Cpus, &pin(), Patience::None));
        });
        // Without patience, like a context that has interrupted another one.
        for class in home(&model).arrivals.take() {
            model.heap.collect(&pin(), home(&model), class, Patience::None);
        }
        freer.join().unwrap();
        holder.join().unwrap();
        model.heap.run_pending_work(&pin());
        let waiting = home(&model).class(CLASS).shelf.take_waiting();
        assert!(waiting.is_none(), "an object waits that is not noted");
        model.give(kept);
        Model::end(model);
    });
}

/// An interrupt drains the depot while another CPU may hold the lock.
#[test]
fn a_drain_that_may_not_wait_loses_no_object() {
    explore(|| {
        let model = Model::new(false);
        let held: Vec<Sent> = (0..7).map(|_| model.take()).collect();
        held.into_iter().for_each(|object| model.give(object));
        let other = model.clone();
        let user = thread::spawn(move || {
            become_cpu(1);
            let object = other.take();
            other.give(object);
        });
        model.heap.clear_depots(&pin(), home(&model), Patience::None);
        model.heap.clear_shelves(&pin(), home(&model), Patience::None);
        user.join().unwrap();
        become_cpu(1);
        model.heap.drain(&pin());
        Model::end(model);
    });
}
