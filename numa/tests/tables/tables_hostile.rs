//! Discovery from bytes that no firmware should write: it ends, stays in bounds, and gives a topology.
// Safe code throughout, and Miri takes minutes for it.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod tables_support;

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use tables_support::{Tables, check_shape, dump, seal};
use topomem_numa::tables::{Cedt, Hmat, HmatEntry, Madt, Slit, Srat};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn garbage_is_survived(garbage in vec(vec(any::<u8>(), 0..400), 5), sealed in any::<bool>()) {
        let signatures = [b"APIC", b"SRAT", b"SLIT", b"HMAT", b"CEDT"];
        let mut tables = garbage.into_iter().zip(signatures).map(|(mut bytes, signature)| {
            if sealed && bytes.len() >= 36 {
                bytes[..4].copy_from_slice(signature);
                seal(&mut bytes);
            }
            Some(bytes)
        });
        let mut next = || tables.next().flatten();
        let tables =
            Tables { madt: next(), srat: next(), slit: next(), hmat: next(), cedt: next(), root_checksum: 0 };
        let (topology, said) = tables.discover(0);
        check_shape(&topology);
        said.iter().for_each(|diagnostic| assert!(!diagnostic.to_string().is_empty()));
        let _ = topology.to_string();
    }
}

/// One change to a table: bytes written over, cut off, or repeated.
#[derive(Debug, Clone)]
enum Mutation {
    Write(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Zeros make structures without length, ones overlong ones.
    let value = prop_oneof![Just(0u8), Just(0xff), any::<u8>()];
    prop_oneof![
        6 => (any::<prop::sample::Index>(), value).prop_map(|(at, value)| Mutation::Write(at, value)),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Cut),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Repeat),
    ]
}

fn mutate(table: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        if table.len() <= 36 {
            return;
        }
        let place = |at: &prop::sample::Index, table: &Vec<u8>| 36 + at.index(table.len() - 36);
        match mutation {
            Mutation::Write(at, value) => {
                let at = place(at, table);
                table[at] = *value;
            }
            Mutation::Cut(at) => table.truncate(place(at, table)),
            Mutation::Repeat(at) => table.extend_from_within(place(at, table)..),
        }
    }
}

/// All that the parsers say of a table; each must come to an end.
fn read_all(tables: &Tables) -> usize {
    let tables = tables.firmware();
    let madt = tables.madt.and_then(|bytes| Madt::parse(bytes).ok());
    let srat = tables.srat.and_then(|bytes| Srat::parse(bytes).ok());
    let hmat = tables.hmat.and_then(|bytes| Hmat::parse(bytes).ok());
    let cedt = tables.cedt.and_then(|bytes| Cedt::parse(bytes).ok());
    let slit = tables.slit.and_then(|bytes| Slit::parse(bytes).ok());
    let figures = hmat.into_iter().flat_map(|hmat| hmat.entries()).map(|entry| match entry {
        Ok(HmatEntry::LatencyBandwidth(matrix)) => 1 + matrix.figures().count() + matrix.domains().count(),
        _ => 1,
    });
    slit.map_or(0, |slit| slit.localities())
        + madt.map_or(0, |madt| madt.entries().count())
        + srat.map_or(0, |srat| srat.entries().count())
        + cedt.map_or(0, |cedt| cedt.entries().count())
        + figures.sum::<usize>()
}

#[test]
fn mutated_real_tables_are_survived() {
    let machines: Vec<Tables> = dump::machines().iter().map(|name| dump::machine(name)).collect();
    let machine = prop::sample::select(machines);
    let kinds = RefCell::new(BTreeSet::new());
    proptest!(config(3000), |(mut tables in machine, mutations in vec(vec(mutation(), 0..4), 5), sealed in any::<bool>())| {
        for (table, mutations) in tables.each_mut().zip(&mutations) {
            mutate(table, mutations);
            if sealed {
                seal(table);
            }
        }
        let bytes: usize = tables.each_mut().map(|table| table.len()).sum();
        prop_assert!(read_all(&tables) <= bytes);
        let (topology, said) = tables.discover(0);
        check_shape(&topology);
        for diagnostic in said {
            let text = format!("{diagnostic:?}").replace("Table(", "");
            let name = text.split(['{', '(', ' ']).next().unwrap_or_default().to_owned();
            kinds.borrow_mut().insert(name);
        }
    });
    // The mutations reach more than the checksum.
    assert!(kinds.borrow().len() >= 6, "{kinds:?}");
}
