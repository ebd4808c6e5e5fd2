//! How much memory a heap holds for what its callers hold.

use std::alloc::Layout;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};

use super::churn::{LIVE, Live, mixed};
use super::subject::Subject;
use super::work::Object;

/// What is measured in one go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Bytes held for each that lives, after churn.
    pub churned: f64,
    /// How much of that went back in percent when all was freed.
    pub at_once: f64,
    /// The same after reclaim.
    pub reclaimed: f64,
    /// Bytes held for each that lives, after churn, when 90 % were freed at random, and after reclaim.
    pub sparse: f64,
}

/// The rows of [`Held::figures`], and what they count.
pub(super) const ROWS: [(&str, &str); 4] =
    [("held_live", "held/live"), ("sparse", "held/live"), ("returned", "%"), ("returned_reclaim", "%")];

impl Held {
    /// In the order of the rows.
    pub(super) fn figures(self) -> Vec<f64> {
        vec![self.churned, self.sparse, self.at_once, self.reclaimed]
    }
}

/// Replacements of each object in a churn.
const CHURN: usize = 10;

/// Each thread fills its share, replaces it many times over and frees it; then it does so again, and frees
/// nine tenths.
///
/// # Panics
///
/// If the heap cannot tell what it holds.
pub(super) fn held<A: Subject>(cpus: usize) -> Held {
    // Pages are then touched one by one, by all heaps alike.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let share = LIVE / cpus;
    // These books are the caller's, and so are touched before the heap is made.
    let books = Mutex::new((0..cpus).map(|_| touched(share)).collect::<Vec<_>>());
    let heap = A::new(cpus);
    let run =
        Run { heap: &heap, all: Barrier::new(cpus + 1), reclaiming: Mutex::new(()), live: AtomicU64::new(0) };
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (run, books) = (&run, &books);
            scope.spawn(move || {
                let Some(mut book) = books.lock().ok().and_then(|mut books| books.pop()) else { return };
                run.heap.enter(cpu);
                for kept in [0, share / 10] {
                    book = run.cycle(cpu, book, kept);
                }
            });
        }
        let [churned, freed, reclaimed, _, _, sparse] = std::array::from_fn(|_| run.step());
        let returned = |left: Bytes| 100.0 * (1.0 - left.held / churned.held);
        Held {
            churned: churned.held / churned.live,
            at_once: returned(freed),
            reclaimed: returned(reclaimed),
            sparse: sparse.held / sparse.live,
        }
    })
}

/// After a step of all threads.
#[derive(Debug, Clone, Copy)]
struct Bytes {
    held: f64,
    live: f64,
}

/// Room for `count` objects that is the process's already.
fn touched(count: usize) -> Vec<Object> {
    let mut book = vec![Object { memory: ptr::null_mut(), layout: Layout::new::<u8>() }; count];
    book.clear();
    book
}

struct Run<'h, A> {
    heap: &'h A,
    /// The threads, and the one that measures.
    all: Barrier,
    /// Threads reclaim one after the other: what they wait for in each other's way would stay.
    reclaiming: Mutex<()>,
    /// Bytes that the threads hold.
    live: AtomicU64,
}

impl<A: Subject> Run<'_, A> {
    /// One thread's three steps.
    fn cycle(&self, cpu: usize, book: Vec<Object>, kept: usize) -> Vec<Object> {
        let mut live = Live::fill(self.heap, cpu, book, mixed);
        live.objects.iter().for_each(|object| object.touch());
        (0..CHURN * live.objects.len()).for_each(|_| live.replace(self.heap, mixed).touch());
        self.step_ends(&live);
        live.free_from(self.heap, kept);
        self.step_ends(&live);
        {
            let _turn = self.reclaiming.lock();
            self.heap.reclaim();
        }
        self.step_ends(&live);
        live.free_from(self.heap, 0);
        live.objects
    }

    fn step_ends(&self, live: &Live) {
        let bytes: usize = live.objects.iter().map(|object| object.layout.size()).sum();
        // Relaxed: the barrier orders it.
        self.live.fetch_add(bytes as u64, Ordering::Relaxed);
        self.all.wait();
        self.all.wait();
    }

    /// Measures when all threads have ended their step.
    fn step(&self) -> Bytes {
        self.all.wait();
        let Some(held) = self.heap.held() else { panic!("{} cannot tell what it holds", A::NAME) };
        let live = self.live.swap(0, Ordering::Relaxed);
        self.all.wait();
        Bytes { held: held as f64, live: live as f64 }
    }
}
