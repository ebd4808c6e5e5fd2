//! Random schedules of CPUs on the software machine, one step inside another: no CPU ever uses a
//! translation whose removal has completed, and every request completes once the interrupts are
//! delivered.
#![cfg(not(any(loom, miri)))]
#![allow(clippy::unwrap_used)]

mod machine;
mod world;

use std::num::NonZeroU16;
use std::sync::atomic::Ordering::Relaxed;

use machine::*;
use proptest::prelude::*;
use topomem_shootdown::TlbFeatures;
use world::{play, step};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A machine without tags, one with them (and few, so that they are reused), and more.
fn features() -> [TlbFeatures; 6] {
    let tagged = TlbFeatures::NONE.with_asids(1);
    let selective = TlbFeatures::NONE.with_asids(2).with_selective();
    let pages = NonZeroU16::new(3).unwrap();
    let broadcasting = TlbFeatures::NONE.with_broadcast(pages);
    let leaf_only = TlbFeatures::NONE.with_leaf_only();
    [TlbFeatures::NONE, tagged, selective, broadcasting, selective.with_broadcast(pages), leaf_only]
}

fn offer(queue: &Queue, features: TlbFeatures) {
    queue.tlb().features.store(features.to_bits(), Relaxed);
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn no_stale_use_after_completion(
        steps in prop::collection::vec(step(), 1..120),
        threshold in 1u64..40,
        features in prop::sample::select(features().to_vec()),
    ) {
        play(&steps, |queue| {
            queue.set_threshold(threshold);
            offer(queue, features);
        });
    }
}

#[cfg(feature = "fault-injection")]
proptest! {
    #![proptest_config(cases(50))]

    /// As if each sender were stopped between claiming its generation and writing the entry.
    #[test]
    fn nothing_depends_on_entries(steps in prop::collection::vec(step(), 1..120)) {
        play(&steps, |queue| queue.inject(Some(topomem_shootdown::Fault::LeaveUnwritten)));
    }
}

/// These mistakes show within some hundred random schedules; the rarer ones are left to the
/// models.
#[cfg(feature = "fault-injection")]
mod caught {
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    use topomem_shootdown::Fault;

    use super::*;

    fn shows(fault: Fault) {
        shows_on(TlbFeatures::NONE, fault);
    }

    fn shows_on(features: TlbFeatures, fault: Fault) {
        breaks(&format!("{fault:?}"), |queue| {
            offer(queue, features);
            queue.inject(Some(fault));
        });
    }

    fn breaks(what: &str, prepare: impl Fn(&Queue)) {
        let config =
            Config { cases: 1000, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let result = runner.run(&prop::collection::vec(step(), 60..120), |steps| {
            play(&steps, &prepare);
            Ok(())
        });
        assert!(result.is_err(), "{what} went unnoticed");
    }

    #[test]
    fn skipped_flush() {
        shows(Fault::SkipFlush);
    }

    #[test]
    fn acknowledged_first() {
        shows(Fault::AcknowledgeFirst);
    }

    #[test]
    fn flushed_later() {
        shows(Fault::FlushLater);
    }

    #[test]
    fn online_without_flush() {
        shows(Fault::OnlineWithoutFlush);
    }

    #[test]
    fn dropped_on_overrun() {
        shows(Fault::DropOnOverrun);
    }

    #[test]
    fn recorded_when_announced() {
        shows(Fault::RecordUnlocked);
    }

    #[test]
    fn completion_of_the_own_change_only() {
        shows(Fault::OwnChangeOnly);
    }

    #[test]
    fn one_flag() {
        shows(Fault::OneFlag);
    }

    #[test]
    fn counted_interrupts() {
        shows(Fault::CountInterrupts);
    }

    #[test]
    fn pending_cleared_late() {
        shows(Fault::ClearPendingLate);
    }

    fn tagged() -> TlbFeatures {
        TlbFeatures::NONE.with_asids(2)
    }

    #[test]
    fn returned_without_comparing() {
        shows_on(tagged(), Fault::KeepStaleAsid);
        shows_on(tagged().with_selective(), Fault::KeepStaleAsid);
    }

    #[test]
    fn reused_without_a_flush() {
        shows_on(TlbFeatures::NONE.with_asids(1), Fault::ReuseUnflushed);
    }

    #[test]
    fn ways_of_other_asids_missed() {
        shows_on(tagged(), Fault::MissOtherAsids);
    }

    #[test]
    fn broadcast_not_waited_for() {
        let pages = NonZeroU16::new(3).unwrap();
        shows_on(TlbFeatures::NONE.with_broadcast(pages), Fault::BroadcastUnsynced);
        shows_on(tagged().with_broadcast(pages), Fault::BroadcastUnsynced);
    }

    #[test]
    fn machines_that_spare_what_they_shall_flush() {
        for flaw in [Flaw::SparesOtherAsids, Flaw::FlushesNoAsid] {
            breaks(&format!("{flaw:?}"), |queue| {
                offer(queue, tagged());
                queue.tlb().flaw.store(flaw as u32, Relaxed);
            });
        }
    }
}
