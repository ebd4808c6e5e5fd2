use std::vec::Vec;

use super::*;

fn full() -> AtomicBitmap512 {
    let line = AtomicBitmap512::new();
    line.fill([u64::MAX; WORDS]);
    line
}

#[test]
fn every_order_is_claimed_aligned_and_disjoint() {
    for order in if cfg!(miri) { 5 } else { 0 }..=9 {
        let line = full();
        let mut starts = Vec::new();
        while let Ok(bit) = line.claim_order(order) {
            assert_eq!(bit % (1 << order), 0);
            starts.push(bit);
        }
        starts.sort_unstable();
        let expected: Vec<usize> = (0..BITS).step_by(1 << order).collect();
        assert_eq!(starts, expected, "order {order}");
        assert!(line.is_empty());
    }
}

#[test]
fn small_claims_leave_large_runs() {
    let line = full();
    let first = line.claim_order(0).unwrap();
    let second = line.claim_order(0).unwrap();
    assert_eq!(second, first ^ 1, "the taken frame's buddy goes first");
    assert_eq!(line.claim_order(8), Ok(256));
    assert_eq!(line.claim_order(9), Err(ClaimError::Untouched));
}

#[test]
fn a_failed_run_gives_back_exactly_what_it_claimed() {
    let line = full();
    line.claim_run(130, 1).unwrap();
    let before = line.snapshot();
    assert_eq!(line.claim_run(60, 80), Err(ClaimError::RolledBack));
    assert_eq!(line.snapshot(), before);
    assert_eq!(line.claim_run(130, 3), Err(ClaimError::Untouched));
    assert_eq!(line.claim_run(131, 200), Ok(()));
    assert_eq!(line.count(), 512 - 201);
}

#[test]
fn releasing_a_free_bit_changes_nothing() {
    let line = AtomicBitmap512::new();
    assert_eq!(line.release(3, 0b0110), Ok(Change { old: 0, new: 0b0110 }));
    assert_eq!(line.release(3, 0b1100), Err(Overlap { bits: 0b0100 }));
    assert_eq!(line.load(3), 0b0110);
}

#[test]
fn whole_words_come_out_at_once() {
    let line = AtomicBitmap512::new();
    line.release(5, 0xf0).unwrap();
    assert!(line.has_run(2) && !line.has_run(3));
    assert_eq!(line.claim_word(3), None);
    assert_eq!(line.claim_word(2), Some((5, 0xf0)));
    assert_eq!(line.claim_word(0), None);
}

#[test]
fn best_fit_agrees_with_a_search() {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..if cfg!(miri) { 1 } else { 2000 } {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        let sparse = word | word.rotate_left(17);
        for order in 0..=6 {
            let size = 1_u32 << order;
            let runs: Vec<u32> = (0..64)
                .step_by(size as usize)
                .filter(|&at| sparse >> at & ones(size) == ones(size))
                .collect();
            let holder = |at: u32| {
                (order..=6).rev().find(|&level| {
                    let start = at & !((1 << level) - 1);
                    sparse >> start & ones(1 << level) == ones(1 << level)
                })
            };
            let expected = runs.iter().copied().min_by_key(|&at| (holder(at), at));
            assert_eq!(best_fit(sparse, order), expected, "{sparse:#x} order {order}");
        }
    }
}

#[test]
fn runs_are_found_at_any_alignment() {
    let mut words = [0; WORDS];
    for bit in 61..200 {
        words[bit / 64] |= 1 << (bit % 64);
    }
    assert_eq!(find_run(&words, 139, 1), Some(61));
    assert_eq!(find_run(&words, 100, 64), Some(64));
    assert_eq!(find_run(&words, 140, 1), None);
    assert_eq!(find_run(&words, 100, 128), None);
}
