//! A step, made on the allocator and on the model: both must answer alike.

use topomem_numa::NodeId;
use topomem_numa::frames::{
    AllocError, DoubleFrees, FrameRequest, Frames, NodeSet, Policy, ResizeError, RetireError, Retired,
};
use topomem_percpu::Order;

use super::{CPUS, Kind, Model, POOL, START, Step, give_back, is_zero, managed};
use crate::frames_support::{Host, frame, number, pin};

pub(super) fn apply(frames: &Frames<Host>, model: &mut Model, step: Step) {
    match step {
        Step::Alloc { cpu, order, node, zeroed, below } => {
            let order = Order::new(order).unwrap();
            let mut request = FrameRequest::order(order);
            if zeroed {
                request = request.zeroed();
            }
            if let Some(node) = node.and_then(NodeId::new) {
                request = request.policy(Policy::Bind(NodeSet::of(node)));
            }
            if let Some(below) = below {
                request = request.below(frame(below).start_address());
            }
            let fits = |end: u64| below.is_none_or(|below| end <= below);
            match frames.alloc(&pin(cpu), &request) {
                Ok(first) => {
                    assert_eq!(number(first) % order.frames(), 0);
                    assert!(fits(number(first) + order.frames()));
                    if let Some(node) = node {
                        assert_eq!(frames.node_of(first).unwrap().index(), node);
                    }
                    model.add(number(first), Kind::Aligned(order));
                    // The frames freed before were not.
                    assert!(!zeroed || is_zero(frames, first, order), "{first:?}");
                }
                Err(AllocError::WouldBlock { .. }) => {
                    // Then others hold something: once they drained, the answer is final.
                    (0..CPUS).for_each(|cpu| frames.service(&pin(cpu)));
                    match frames.alloc(&pin(cpu), &request) {
                        Ok(first) => {
                            assert!(fits(number(first) + order.frames()));
                            model.add(number(first), Kind::Aligned(order));
                        }
                        Err(error) => assert!(matches!(error, AllocError::Exhausted { .. }), "{error}"),
                    }
                }
                Err(AllocError::Exhausted { .. }) => {
                    // No aligned run of the order may be free of live frames.
                    let mut at = START.next_multiple_of(order.frames());
                    while at + order.frames() <= 26 * 256 {
                        let run = at..at + order.frames();
                        let node_fits = |number| {
                            node.is_none_or(|node| frames.node_of(frame(number)).unwrap().index() == node)
                        };
                        let same_node = frames.node_of(frame(at)) == frames.node_of(frame(run.end - 1));
                        let free = run.clone().all(managed) && !model.has_any(at, order.frames());
                        assert!(
                            !(free && same_node && node_fits(at) && fits(run.end)),
                            "{at:#x} order {} is free",
                            order.get()
                        );
                        at += order.frames();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        Step::Burst { cpu, count } => {
            let mut burst = vec![frame(0); count];
            if frames.alloc_bulk(&pin(cpu), &FrameRequest::frame(), &mut burst).is_ok() {
                burst.into_iter().for_each(|first| model.add(number(first), Kind::Aligned(Order::FRAME)));
            }
        }
        Step::Run { cpu, count, align, below } => {
            let align = 1 << align;
            let limit = frame(below.unwrap_or(1 << 30)).start_address();
            let request = FrameRequest::frame().below(limit);
            if let Ok(first) = frames.alloc_run(&pin(cpu), &request, count, align) {
                assert_eq!(number(first) % align, 0);
                assert!(frame(number(first) + count).start_address() <= limit);
                model.add(number(first), Kind::Run(count));
            }
        }
        Step::Free { cpu, pick } => {
            let Some((&first, &kind)) = model.live.iter().nth(pick % model.live.len().max(1)) else { return };
            model.live.remove(&first);
            give_back(frames, cpu, first, kind);
            model.settle();
        }
        Step::Resize { cpu, pick, count } => {
            let Some((&first, &kind)) = model.live.iter().nth(pick % model.live.len().max(1)) else { return };
            let (old, before) = (kind.frames(), frames.validate().unwrap());
            // SAFETY: nobody uses the arena.
            let resized = unsafe {
                if count > old {
                    frames.extend_run(&pin(cpu), frame(first), old, count)
                } else {
                    frames.shrink_run(&pin(cpu), frame(first), old, count)
                }
            };
            let inside = old.max(count) < 512 && first / 512 == (first + old.max(count) - 1) / 512;
            match resized {
                Ok(()) => {
                    assert!(inside && count != old);
                    model.live.remove(&first);
                    model.add(first, Kind::Run(count));
                }
                // A node's memory may end inside a block.
                Err(ResizeError::Length) => {
                    let node = |number| frames.node_of(frame(number));
                    let has_room =
                        (first..first + count).all(|number| managed(number) && node(number) == node(first));
                    assert!(!inside || count == old || !has_room, "{first:#x}: {old} to {count} frames");
                }
                Err(ResizeError::NotFree) => assert!(count > old),
                Err(error) => panic!("{error}"),
            }
            if resized.is_err() {
                assert_eq!(frames.validate().unwrap(), before);
            }
            model.settle();
        }
        Step::BadFree { cpu, at, order } => {
            let (first, order) = (START - 64 + at, Order::new(order).unwrap());
            if model.finds == DoubleFrees::FoundAtOnce {
                // Whatever is not exactly as handed out, wherever the frames are by now.
                if model.live.get(&first) != Some(&Kind::Aligned(order)) {
                    let before = frames.validate().unwrap();
                    // SAFETY: it must be refused.
                    let freed = unsafe { frames.free(&pin(cpu), frame(first), order) };
                    assert!(freed.is_err(), "{first:#x} order {}", order.get());
                    // SAFETY: as above.
                    let freed = unsafe { frames.free_run(&pin(cpu), frame(first), order.frames()) };
                    let run = Kind::Run(order.frames());
                    assert!(freed.is_err() || model.live.remove(&first) == Some(run), "{first:#x} {run:?}");
                    if freed.is_err() {
                        assert_eq!(frames.validate().unwrap(), before);
                    }
                }
                return;
            }
            // Only what no live run touches is surely wrong; other CPUs' magazines do not tell.
            (0..CPUS).filter(|&other| other != cpu).for_each(|other| {
                frames.drain(&pin(other));
            });
            // A request to drain is served by whatever the CPU does next, and is not its effect.
            frames.service(&pin(cpu));
            if !model.touches(first, order.frames()) {
                let before = frames.validate().unwrap();
                // SAFETY: it must be refused.
                let freed = unsafe { frames.free(&pin(cpu), frame(first), order) };
                assert!(freed.is_err(), "{first:#x} order {}", order.get());
                assert_eq!(frames.validate().unwrap(), before);
            }
        }
        Step::Retire { cpu, at } => retire(frames, model, cpu, START - 64 + at),
        Step::Service => {
            (0..CPUS).for_each(|cpu| frames.service(&pin(cpu)));
            model.retiring.values_mut().for_each(|answered| *answered = true);
            model.settle();
        }
        Step::Drain { cpu } => _ = frames.drain(&pin(cpu)),
        Step::Trim { cpu } => (0..64).for_each(|_| frames.trim(&pin(cpu))),
        Step::Refill { cpu, budget } => {
            let filled = frames.refill_zeroed(&pin(cpu), budget);
            assert!(filled <= budget.min(POOL as usize));
        }
        Step::DrainZeroed { node } => {
            let node = NodeId::new(node).unwrap();
            let held = frames.stats(node).unwrap().zeroed.frames;
            assert_eq!(frames.drain_zeroed(node), held);
        }
        Step::Offline { cpu } => {
            frames.cpu_offline(&pin(cpu));
            frames.validate().unwrap();
            frames.cpu_online(&pin(cpu)).unwrap();
        }
    }
}

fn retire(frames: &Frames<Host>, model: &mut Model, cpu: usize, number: u64) {
    let given = frame(number);
    let result = frames.retire(&pin(cpu), given);
    if model.retiring.contains_key(&number) {
        assert!(matches!(result, Err(RetireError::AlreadyRetired { frame, .. }) if frame == given));
        return;
    }
    if !managed(number) {
        let inside = (19 * 256..19 * 256 + 3).contains(&number);
        let wrong = if inside { RetireError::Reserved(given) } else { RetireError::OutOfRange(given) };
        assert_eq!(result, Err(wrong));
        return;
    }
    model.retiring.insert(number, false);
    match result.unwrap() {
        Retired::Now => {
            assert!(!model.touches(number, 1) && frames.is_retired(given));
            model.gone.insert(number);
        }
        Retired::WhenDrained => assert!(!model.touches(number, 1) && !frames.is_retired(given)),
        Retired::WhenFreed => assert!(model.touches(number, 1) && !frames.is_retired(given)),
    }
}
