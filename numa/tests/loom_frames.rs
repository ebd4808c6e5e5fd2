//! loom models of the frame allocator's protocols, running the production code:
//! `RUSTFLAGS="--cfg loom" cargo test -p topomem-numa --release --test loom_frames`.
#![cfg(loom)]
// Helpers outside test functions fail tests by it.
#![allow(clippy::unwrap_used)]

use std::alloc::Layout;
use std::ptr::NonNull;

use loom::thread;
use topomem_numa::frames::{AllocError, FrameRequest, Frames, FramesConfig, Ground, Retired, ZeroedFrames};
use topomem_numa::{CpuId, MemoryRange, NodeId, Piece};
use topomem_percpu::{CpuPin, Order, Platform};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

/// Physical addresses below the arena's size map to the arena: bookkeeping, then a block of frames.
struct Host(NonNull<u8>);

// SAFETY: plain memory.
unsafe impl Send for Host {}
// SAFETY: plain memory.
unsafe impl Sync for Host {}

const ARENA: usize = 16 << 20;

// SAFETY: the arena is never freed; nobody touches frames' contents.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        // SAFETY: bookkeeping is placed inside the arena.
        unsafe { self.0.add(addr.as_u64() as usize) }
    }
}

struct Tiny {
    next: u64,
    blocks: u64,
}

/// The first frame, beyond the arena.
const START: u64 = 16 << 20;

// SAFETY: places are disjoint parts of the arena.
unsafe impl Ground for Tiny {
    type Error = std::fmt::Error;

    fn node_count(&self) -> usize {
        1
    }

    fn nearest(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::once(node)
    }

    fn cpus(&self) -> impl Iterator<Item = (CpuId, NodeId)> {
        (0..2).map(|cpu| (CpuId::new(cpu).unwrap(), NodeId::ZERO))
    }

    fn weight(&self, _: NodeId) -> Option<u32> {
        None
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let range = MemoryRange::from_length(START, self.blocks << 21).unwrap();
        std::iter::once(Piece { range, node: NodeId::ZERO })
    }

    fn place(&mut self, bytes: u64, align: u64, _: NodeId) -> Result<PhysAddr, std::fmt::Error> {
        let start = self.next.next_multiple_of(align.max(4096));
        self.next = start + bytes;
        assert!(self.next <= ARENA as u64);
        Ok(PhysAddr::new(start))
    }
}

fn frames(blocks: u64) -> &'static Frames<Host> {
    frames_with(blocks, &FramesConfig::default())
}

fn frames_with(blocks: u64, config: &FramesConfig) -> &'static Frames<Host> {
    // Of the frames, only those of the first block are ever touched, where they are zeroed.
    let layout = Layout::from_size_align(ARENA + (1 << 21), 4096).unwrap();
    // SAFETY: the size is not 0. Leaked: models are short.
    let base = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap();
    let frames = Box::leak(Box::new(Frames::new(Host(base))));
    frames.init(&mut Tiny { next: 0, blocks }, config).unwrap();
    frames
}

fn pin(cpu: usize) -> CpuPin {
    // SAFETY: one thread plays each CPU.
    unsafe { CpuPin::new(CpuId::new(cpu).unwrap()) }
}

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

fn alloc(frames: &Frames<Host>, cpu: usize, level: u8) -> Option<(u64, u64)> {
    let first = frames.alloc(&pin(cpu), &FrameRequest::order(order(level))).ok()?;
    let number = first.start_address().as_u64() >> 12;
    Some((number, number + order(level).frames()))
}

fn free(frames: &Frames<Host>, cpu: usize, first: u64, level: u8) {
    let frame = PhysFrame::containing_address(PhysAddr::new(first << 12));
    // SAFETY: nobody uses the frames.
    unsafe { frames.free(&pin(cpu), frame, order(level)) }.unwrap();
}

fn disjoint(a: Option<(u64, u64)>, b: Option<(u64, u64)>) {
    if let (Some(a), Some(b)) = (a, b) {
        assert!(a.1 <= b.0 || b.1 <= a.0, "handed out twice: {a:?} {b:?}");
    }
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    model_with(2, body);
}

fn model_with(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

#[test]
fn refill_against_a_remote_free() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        let kept = alloc(frames, 0, 0).unwrap();
        let given = alloc(frames, 0, 0).unwrap();
        frames.drain(&pin(0));
        let remote = thread::spawn(move || free(frames, 1, given.0, 0));
        let got = alloc(frames, 0, 0);
        disjoint(got, Some(kept));
        remote.join().unwrap();
        frames.drain(&pin(0));
        frames.validate().unwrap();
    });
}

#[test]
fn two_last_frees_promote() {
    model(|| {
        let frames = frames(1);
        let (a, b) = (alloc(frames, 0, 6).unwrap(), alloc(frames, 0, 6).unwrap());
        let other = thread::spawn(move || free(frames, 1, a.0, 6));
        free(frames, 0, b.0, 6);
        other.join().unwrap();
        assert_eq!(frames.validate().unwrap().free, 512);
        assert!(alloc(frames, 0, 9).is_some());
    });
}

#[test]
fn order_7_against_order_0() {
    model(|| {
        let frames = frames(1);
        let rest = alloc(frames, 0, 8).unwrap();
        let other = thread::spawn(move || alloc(frames, 1, 0));
        let run = alloc(frames, 0, 7);
        let one = other.join().unwrap();
        disjoint(run, one);
        disjoint(run, Some(rest));
        assert!(run.is_some() && one.is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn order_8_against_order_7() {
    model(|| {
        let frames = frames(1);
        let rest = alloc(frames, 0, 8).unwrap();
        let other = thread::spawn(move || alloc(frames, 1, 7));
        let run = alloc(frames, 0, 8);
        let half = other.join().unwrap();
        disjoint(run, half);
        assert!(run.is_some() || half.is_some());
        disjoint(half, Some(rest));
        frames.validate().unwrap();
    });
}

#[test]
fn order_9_against_the_frees_that_make_it() {
    model(|| {
        let frames = frames(1);
        let first = alloc(frames, 0, 8).unwrap();
        let other = thread::spawn(move || alloc(frames, 1, 9));
        free(frames, 0, first.0, 8);
        let huge = other.join().unwrap();
        frames.validate().unwrap();
        assert!(huge.is_some() || alloc(frames, 0, 9).is_some());
    });
}

#[test]
fn block_ownership_changes_hands() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        frames.cpu_online(&pin(1)).unwrap();
        let first = alloc(frames, 0, 0).unwrap();
        let other = thread::spawn(move || {
            let got = alloc(frames, 1, 0);
            frames.drain(&pin(1));
            got
        });
        frames.drain(&pin(0));
        let got = other.join().unwrap();
        disjoint(Some(first), got);
        assert!(got.is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn a_flush_against_a_free_of_the_same_word() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        frames.cpu_online(&pin(1)).unwrap();
        let given = alloc(frames, 0, 0).unwrap();
        // The rest of its word goes home while the other CPU frees it straight there.
        let other = thread::spawn(move || free(frames, 1, given.0, 0));
        frames.drain(&pin(0));
        other.join().unwrap();
        frames.drain(&pin(1));
        assert_eq!(frames.validate().unwrap().free, 512);
    });
}

#[test]
fn a_split_against_a_merge() {
    model(|| {
        let frames = frames(2);
        let low = alloc(frames, 0, 9).unwrap();
        // The buddy of `low` may be taken on its own, or with it once it is back.
        let other = thread::spawn(move || alloc(frames, 1, 10));
        free(frames, 0, low.0, 9);
        let half = alloc(frames, 0, 9);
        let both = other.join().unwrap();
        disjoint(half, both);
        assert!(half.is_some() || both.is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn two_claims_of_one_block() {
    model(|| {
        let frames = frames(1);
        let other = thread::spawn(move || alloc(frames, 1, 9));
        let mine = alloc(frames, 0, 9);
        assert!(mine.is_some() != other.join().unwrap().is_some());
        frames.validate().unwrap();
    });
}

#[test]
fn a_block_freed_twice_is_held_back_once() {
    model(|| {
        let frames = frames(32);
        frames.cpu_online(&pin(0)).unwrap();
        frames.cpu_online(&pin(1)).unwrap();
        let block = alloc(frames, 0, 9).unwrap();
        let first = PhysFrame::containing_address(PhysAddr::new(block.0 << 12));
        // SAFETY: nobody uses the frames; the second free is the error that must be found.
        let other = thread::spawn(move || unsafe { frames.free(&pin(1), first, Order::HUGE) }.is_ok());
        // SAFETY: as above.
        let mine = unsafe { frames.free(&pin(0), first, Order::HUGE) }.is_ok();
        assert!(mine != other.join().unwrap());
        let totals = frames.validate().unwrap();
        assert_eq!((totals.allocated, totals.in_magazines), (0, 512));
    });
}

/// All but `order` is taken, and a pool wants one frame.
fn almost_full(free: u8) -> &'static Frames<Host> {
    let zeroed = ZeroedFrames::Frames(1);
    let frames = frames_with(1, &FramesConfig { zeroed, ..FramesConfig::default() });
    for level in free..=8 {
        alloc(frames, 0, level).unwrap();
    }
    frames
}

fn alloc_zeroed(frames: &Frames<Host>, cpu: usize) -> Option<(u64, u64)> {
    let first = frames.alloc(&pin(cpu), &FrameRequest::frame().zeroed()).ok()?;
    let words = frames.platform().phys_to_virt(first.start_address()).cast::<u64>();
    // SAFETY: the frame is this thread's, and lies in the arena.
    let found = unsafe { words.add(511).replace(u64::MAX) };
    assert_eq!(found, 0, "not zeroed: {first:?}");
    let number = first.start_address().as_u64() >> 12;
    Some((number, number + 1))
}

#[test]
fn frames_on_their_way_to_the_pool_are_not_missed() {
    model(|| {
        let frames = almost_full(3);
        let filler = thread::spawn(move || frames.refill_zeroed(&pin(1), 1));
        let run = frames.alloc(&pin(0), &FrameRequest::order(order(3)));
        assert!(!matches!(run, Err(AllocError::Exhausted { .. })), "free frames were missed: {run:?}");
        let filled = filler.join().unwrap();
        assert!(run.is_err() || filled == 0 || frames.validate().unwrap().zeroed == 0);
        frames.validate().unwrap();
        assert!(run.is_ok() || alloc(frames, 0, 3).is_some());
    });
}

#[test]
fn the_pool_is_filled_emptied_and_spilt_at_once() {
    model(|| {
        let frames = almost_full(3);
        assert_eq!(frames.refill_zeroed(&pin(0), 1), 1);
        let taker = thread::spawn(move || alloc_zeroed(frames, 1));
        let spilt = frames.drain_zeroed(NodeId::ZERO);
        let one = taker.join().unwrap();
        assert!(one.is_some() && spilt <= 1);
        let totals = frames.validate().unwrap();
        assert_eq!((totals.free, totals.zeroed), (7, 0));
    });
}

#[test]
fn two_take_from_the_pool_while_it_is_filled() {
    model(|| {
        let frames = almost_full(3);
        assert_eq!(frames.refill_zeroed(&pin(0), 1), 1);
        let other = thread::spawn(move || alloc_zeroed(frames, 1));
        frames.refill_zeroed(&pin(0), 1);
        let one = alloc_zeroed(frames, 0);
        let two = other.join().unwrap();
        disjoint(one, two);
        assert!(one.is_some() && two.is_some());
        frames.validate().unwrap();
    });
}

/// After everything is back and drained: the frame is gone, and only it.
fn gone(frames: &Frames<Host>, bad: u64) {
    frames.service(&pin(0));
    frames.service(&pin(1));
    let totals = frames.validate().unwrap();
    assert_eq!((totals.retired, totals.allocated), (1, 0));
    assert!(frames.is_retired(PhysFrame::containing_address(PhysAddr::new(bad << 12))));
}

fn retire(frames: &Frames<Host>, cpu: usize, bad: u64) -> Retired {
    frames.retire(&pin(cpu), PhysFrame::containing_address(PhysAddr::new(bad << 12))).unwrap()
}

#[test]
fn retirement_against_the_free_that_makes_a_block_whole() {
    model(|| {
        let frames = frames(1);
        let run = alloc(frames, 0, 6).unwrap();
        let other = thread::spawn(move || retire(frames, 1, run.0 + 3));
        free(frames, 0, run.0, 6);
        other.join().unwrap();
        gone(frames, run.0 + 3);
        assert!(alloc(frames, 0, 9).is_none());
    });
}

#[test]
fn retirement_against_a_huge_page() {
    model(|| {
        let frames = frames(1);
        let other = thread::spawn(move || retire(frames, 1, START / 4096 + 3));
        let huge = alloc(frames, 0, 9);
        let when = other.join().unwrap();
        assert!(when != Retired::Now || huge.is_none());
        if let Some((first, _)) = huge {
            free(frames, 0, first, 9);
        }
        gone(frames, START / 4096 + 3);
    });
}

/// CPU 1 frees a run of order `level` with the bad frame, while CPU 0 retires that and at once asks
/// for `wanted`: it must not get the frame, nor a block around it.
fn ask_after_retiring(level: u8, wanted: u8) {
    // One preemption, in the free, which the yield lets begin: with more, there are too many ways.
    model_with(1, move || {
        let frames = frames(1);
        let run = alloc(frames, 1, level).unwrap();
        frames.cpu_online(&pin(0)).unwrap();
        let other = thread::spawn(move || free(frames, 1, run.0, level));
        retire(frames, 0, run.0);
        thread::yield_now();
        let got = alloc(frames, 0, wanted);
        disjoint(got, Some((run.0, run.0 + 1)));
        other.join().unwrap();
        if let Some((first, _)) = got {
            free(frames, 0, first, wanted);
        }
        frames.drain(&pin(0));
        gone(frames, run.0);
    });
}

#[test]
fn retired_while_freed_is_not_claimed_from_a_bitmap() {
    ask_after_retiring(6, 6);
}

#[test]
fn retired_while_freed_is_not_claimed_from_the_buddy() {
    ask_after_retiring(9, 9);
}

#[test]
fn retired_while_freed_is_not_claimed_by_breaking_a_block() {
    ask_after_retiring(9, 6);
}

#[test]
fn retired_while_freed_does_not_come_by_a_refill() {
    ask_after_retiring(9, 0);
}

#[test]
fn retirement_against_a_block_broken_up() {
    model(|| {
        let frames = frames(1);
        let other = thread::spawn(move || retire(frames, 1, START / 4096 + 3));
        let run = alloc(frames, 0, 6);
        let when = other.join().unwrap();
        let run = run.unwrap();
        assert!(when != Retired::Now || run.0 > START / 4096 + 3);
        free(frames, 0, run.0, 6);
        gone(frames, START / 4096 + 3);
    });
}

#[test]
fn retirement_against_a_refill() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        let kept = alloc(frames, 0, 0).unwrap();
        frames.drain(&pin(0));
        let bad = kept.0 + 1;
        let other = thread::spawn(move || retire(frames, 1, bad));
        let got = alloc(frames, 0, 0).unwrap();
        other.join().unwrap();
        free(frames, 0, got.0, 0);
        free(frames, 0, kept.0, 0);
        gone(frames, bad);
    });
}

#[test]
fn a_magazine_that_answers_does_not_take_the_frame_back() {
    model(|| {
        let frames = frames(1);
        frames.cpu_online(&pin(0)).unwrap();
        let bad = alloc(frames, 0, 0).unwrap().0;
        let other = thread::spawn(move || retire(frames, 1, bad));
        frames.service(&pin(0));
        free(frames, 0, bad, 0);
        other.join().unwrap();
        gone(frames, bad);
        assert!(alloc(frames, 0, 0).is_some_and(|(first, _)| first != bad));
    });
}

#[test]
fn retirement_against_a_pool_being_filled() {
    model_with(1, || {
        let frames = almost_full(3);
        // Who is filled or asked next gets the same one.
        assert_eq!(frames.refill_zeroed(&pin(1), 1), 1);
        let bad = alloc_zeroed(frames, 0).unwrap().0;
        free(frames, 0, bad, 0);
        let filler = thread::spawn(move || frames.refill_zeroed(&pin(1), 1));
        retire(frames, 0, bad);
        disjoint(alloc_zeroed(frames, 0), Some((bad, bad + 1)));
        filler.join().unwrap();
        frames.drain_zeroed(NodeId::ZERO);
        assert_eq!(frames.validate().unwrap().retired, 1);
    });
}
