//! The stress scenario on simulated machines: good ones pass, broken ones fail and say why.
// A scenario takes Miri minutes; the service's steps are in the other tests.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used)]

use core::num::NonZeroU16;

use topomem::TlbFeatures;
use topomem::frames::ZoneWatermarks;
use topomem::sim::{Builder, Delivery, Sim};
use topomem_stress::sim::{Options, Report, run};
use topomem_stress::{Break, FailureKind, Limit, Scenario};

const MIB: u64 = 1 << 20;

fn options(builder: &Builder, scenario: &str) -> Options {
    Options {
        machine: builder.blueprint().unwrap(),
        delivery: Delivery::default(),
        scenario: Scenario::named(scenario).unwrap(),
        limit: Some(Limit::Milliseconds(1000)),
        seed: 1,
        fault: None,
    }
}

/// Runs, and checks that the records are whole lines that begin and end as they should.
fn report(options: &Options) -> Report {
    let mut records = Vec::new();
    let report = run(options, |record| records.push(record.to_string())).unwrap();
    assert!(records.first().unwrap().starts_with(r#"{"t":"topology""#), "{records:?}");
    let end = format!(r#"{{"t":"end","ok":{}}}"#, report.is_ok());
    assert_eq!(records.last(), Some(&end));
    let of_kind = |kind: &str| records.iter().filter(|record| record.contains(kind)).count();
    assert_eq!(of_kind(r#""t":"node""#), options.machine.nodes.len());
    assert_eq!(of_kind(r#""t":"cpu""#), options.machine.cpus());
    assert_eq!(of_kind(r#""t":"failure""#), report.failures.len());
    report
}

#[track_caller]
fn passes(options: &Options) {
    let report = report(options);
    assert!(report.is_ok(), "{:#?}", report.failures);
}

/// The run fails, by a failure of `kind` before any other.
#[track_caller]
fn fails(fault: Break, kinds: &[FailureKind]) {
    fails_in("stress", fault, kinds);
}

/// What may show a translation that outlives its removal. A CPU that has such a translation may first use it where
/// the oracle looks at translations, or at the contents of a frame, a page or an object that another CPU has by then.
const STALE: &[FailureKind] = &[
    FailureKind::Stale,
    FailureKind::Missing,
    FailureKind::Ownership,
    FailureKind::Contents,
    FailureKind::Heap,
];

/// The same in another scenario.
#[track_caller]
fn fails_in(scenario: &str, fault: Break, kinds: &[FailureKind]) {
    let builder = Sim::builder().nodes(2).cpus(4).memory(128 * MIB);
    fails_on(&options(&builder, scenario), fault, kinds);
}

#[track_caller]
fn fails_on(options: &Options, fault: Break, kinds: &[FailureKind]) {
    for seed in 0..3 {
        let limit = Some(Limit::Milliseconds(6000));
        let options = Options { fault: Some(fault), seed, limit, ..options.clone() };
        // A failure ends the run. How far a run without one gets in its time is the host's business.
        let mut runs = (0..20).map(|_| report(&options));
        let Some(report) = runs.find(|report| !report.is_ok()) else {
            panic!("seed {seed}: nothing is found")
        };
        let first = report.failures.first().map(|failure| failure.kind());
        let expected = first.is_some_and(|kind| kinds.contains(&kind));
        assert!(expected, "seed {seed}: {:#?}", report.failures);
    }
}

/// The run on a machine with `features` fails by a translation that should have gone: it leads to
/// another's memory, or nowhere.
#[track_caller]
fn keeps_translations(features: TlbFeatures, fault: Break) {
    let builder = Sim::builder().nodes(2).cpus(4).memory(128 * MIB).tlb(features);
    fails_on(&options(&builder, "shootdown"), fault, STALE);
}

#[test]
fn one_cpu() {
    passes(&options(&Sim::builder().memory(64 * MIB), "stress"));
}

#[test]
fn two_nodes_four_cpus() {
    passes(&options(&Sim::builder().nodes(2).cpus(4).memory(128 * MIB), "stress"));
}

#[test]
fn four_nodes_eight_cpus_interleaved() {
    let builder = Sim::builder().nodes(4).cpus(8).memory(256 * MIB).interleave(16 * MIB);
    passes(&options(&builder.distance(0, 3, 40).distance(1, 2, 15), "stress"));
}

#[test]
fn a_node_without_memory_and_one_without_cpus() {
    let builder = Sim::builder().nodes(3).cpus(4).memory(128 * MIB);
    passes(&options(&builder.node_memory(0, 0).node_cpus(2, 0).distance(0, 1, 30), "stress"));
}

#[test]
fn uneven_nodes_under_pressure() {
    let builder = Sim::builder().nodes(2).cpus(4).memory(48 * MIB).node_memory(1, 8 * MIB);
    passes(&options(&builder, "frames"));
}

/// Memory runs out again and again, so that CPUs wait for frames that others free. How soon that
/// happens is the host's business: the run is repeated until it has.
#[test]
fn frames_are_waited_for() {
    let builder = Sim::builder().nodes(2).cpus(4).memory(16 * MIB);
    let builder = builder.watermarks(ZoneWatermarks::InProportion);
    let waited = |seed| {
        let report = report(&Options { seed, ..options(&builder, "pressure") });
        assert!(report.is_ok(), "{:#?}", report.failures);
        report.progress.waits > 0
    };
    assert!((0..100).any(waited));
}

/// Without watermarks there is no reserve, and nobody reclaims before memory runs out: the scenario says both.
#[test]
fn a_missing_reserve_is_found() {
    let builder = Sim::builder().nodes(2).cpus(4).memory(16 * MIB);
    let report = report(&options(&builder, "pressure"));
    let said = |what: &str| report.failures.iter().any(|failure| failure.to_string().contains(what));
    assert!(said("wrong reserve") && said("was short of memory"), "{:#?}", report.failures);
}

#[test]
fn late_interrupts() {
    let builder = Sim::builder().nodes(2).cpus(4).memory(128 * MIB);
    let delivery = Delivery { longest: 200, seed: 7 };
    passes(&Options { delivery, ..options(&builder, "shootdown") });
}

/// Few ASIDs, so that they are reused.
fn tagged() -> TlbFeatures {
    TlbFeatures::NONE.with_asids(2)
}

fn broadcasting(features: TlbFeatures) -> TlbFeatures {
    features.with_broadcast(NonZeroU16::new(8).unwrap())
}

#[track_caller]
fn passes_with(features: TlbFeatures) {
    let builder = Sim::builder().nodes(2).cpus(4).memory(128 * MIB).tlb(features);
    let delivery = Delivery { longest: 100, seed: 11 };
    passes(&Options { delivery, ..options(&builder, "stress") });
    passes(&Options { delivery, ..options(&builder, "shootdown") });
}

#[test]
fn tagged_translations() {
    passes_with(tagged());
}

#[test]
fn tagged_translations_removed_selectively() {
    passes_with(TlbFeatures::NONE.with_asids(TlbFeatures::DEFAULT_ASIDS).with_selective());
}

#[test]
fn tagged_translations_removed_by_broadcast() {
    passes_with(broadcasting(tagged().with_selective()));
}

#[test]
fn untagged_translations_removed_by_broadcast() {
    passes_with(broadcasting(TlbFeatures::NONE));
}

#[test]
fn returning_without_comparing_is_found() {
    keeps_translations(tagged(), Break::Asid);
}

#[test]
fn reusing_without_a_flush_is_found() {
    keeps_translations(tagged().with_asids(1), Break::Reuse);
}

#[test]
fn ways_to_freed_tables_are_found() {
    keeps_translations(tagged(), Break::Ways);
}

#[test]
fn broadcasts_that_are_not_waited_for_are_found() {
    keeps_translations(broadcasting(tagged()), Break::Broadcast);
}

#[test]
fn heap_alone() {
    passes(&options(&Sim::builder().nodes(2).cpus(4).memory(128 * MIB), "heap"));
}

#[test]
fn smoke_on_every_seed() {
    for seed in 0..4 {
        let builder = Sim::builder().nodes(2).cpus(2).memory(64 * MIB);
        passes(&Options { seed, limit: None, ..options(&builder, "smoke") });
    }
}

#[test]
fn a_handler_that_does_not_flush_is_found() {
    fails(Break::Shootdown, STALE);
}

#[test]
fn generations_that_are_claimed_too_late_are_found() {
    fails_in("shootdown", Break::Announce, STALE);
}

#[test]
fn changes_that_wait_for_themselves_alone_are_found() {
    fails_in("shootdown", Break::Nested, STALE);
}

/// The run of regions fails by a failure of one of `kinds`.
#[track_caller]
fn fails_with_regions(fault: Break, kinds: &[FailureKind]) {
    let builder = Sim::builder().nodes(2).cpus(4).memory(128 * MIB);
    fails_on(&options(&builder, "regions"), fault, kinds);
}

#[test]
fn regions() {
    passes(&options(&Sim::builder().nodes(2).cpus(4).memory(128 * MIB), "regions"));
}

#[test]
fn regions_on_one_cpu() {
    passes(&options(&Sim::builder().memory(64 * MIB), "regions"));
}

#[test]
fn regions_with_tagged_translations() {
    passes(&options(&Sim::builder().nodes(2).cpus(4).memory(128 * MIB).tlb(tagged()), "regions"));
}

#[test]
fn a_zero_page_that_is_written_is_found() {
    fails_with_regions(Break::ZeroPageWritable, &[FailureKind::Contents]);
}

#[test]
fn frames_that_are_reused_under_their_sharers_are_found() {
    // A frame with two owners is freed twice at last. That is seen first if the run ends with it: by an
    // assertion of the service, or in the tables that were allocated in such a frame.
    use FailureKind::{Contents, Missing, Panic, Service};
    fails_with_regions(Break::ReuseWithSharer, &[Contents, Panic, Missing, Service]);
}

#[test]
fn copies_that_no_tlb_is_told_of_are_found() {
    fails_with_regions(Break::CowWithoutFlush, STALE);
}

#[test]
fn memory_freed_before_an_unresponsive_cpu_answers_is_found() {
    // On a busy host the frame may be overwritten too late to be read: then the CPU that freed it
    // says that it has not waited.
    let builder = Sim::builder().nodes(2).cpus(4).memory(128 * MIB);
    let kinds = [FailureKind::Stale, FailureKind::Ownership, FailureKind::Service];
    fails_on(&options(&builder, "unresponsive"), Break::GiveUp, &kinds);
}

#[test]
fn an_unresponsive_cpu_that_holds_up_others_is_found() {
    fails_in("unresponsive", Break::Serial, &[FailureKind::Service]);
}

#[test]
fn an_unresponsive_cpu_that_nobody_reports_is_found() {
    fails_in("unresponsive", Break::Unreported, &[FailureKind::Service]);
}

#[test]
fn magazines_that_hand_out_twice_are_found() {
    fails(Break::Magazine, &[FailureKind::Ownership]);
}

#[test]
fn distances_turned_upside_down_are_found() {
    fails(Break::Distance, &[FailureKind::Placement]);
}

#[test]
fn what_cannot_be_broken_is_refused() {
    let options = Options { fault: Some(Break::Distance), ..options(&Sim::builder(), "stress") };
    let refused = run(&options, |_| {}).unwrap_err();
    assert!(matches!(refused, topomem_stress::sim::RunError::Break(_)), "{refused}");
    let refused = run(&Options { fault: Some(Break::Asid), ..options }, |_| {}).unwrap_err();
    assert!(matches!(refused, topomem_stress::sim::RunError::Features(_)), "{refused}");
}
