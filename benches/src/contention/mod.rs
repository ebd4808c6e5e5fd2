//! What CPUs cost each other: locks, failed compare-and-swaps, cache lines on the move.
//!
//! Counts, not times, so the figures are the same on any host, and a host of two processors
//! counts sixteen CPUs. The atomics report each access (`topomem_percpu::sync::observed`); each
//! access is one step; and the step that comes next is always that of a CPU drawn at random, as
//! if all ran at the same speed.

mod counts;
mod frees;
mod heap;
mod lines;
mod lock;
mod machine;
mod pair;
mod plot;
mod spaces;
mod subjects;
mod suite;
mod workload;

pub use frees::lines_of_random_frees;
pub use heap::run as run_heap;
pub use pair::read_modify_writes;
pub use plot::{draw_frames, draw_heap, draw_spaces};
pub use spaces::run as run_spaces;
pub use suite::run as run_frames;
