//! Links of free objects protected against forging and undetected overwriting, and slabs with an
//! unpredictable order of allocation: the feature `encoded-free-lists`. It serves the same purpose
//! as Linux's `SLAB_FREELIST_HARDENED` and `SLAB_FREELIST_RANDOM`.
//!
//! A link is combined with a secret and with the address of its object, and the result is mixed: a
//! multiplication spreads each bit to all bits above it, and reversing the bytes spreads it to the
//! bits below. Decoding an overwritten word may give any address. One in 2^14 of these is aligned
//! to a word and nearer than 2^52 bytes, as all memory of a machine is; the rest are no links. An
//! invalid link is not followed: the list ends there. The objects behind it are lost, and never
//! handed out.
//!
//! There is one secret for all heaps of a program, drawn when the first object is linked.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

/// An odd number without a pattern (the golden ratio's fraction), and its inverse modulo 2^64.
const FACTOR: usize = 0x9e37_79b9_7f4a_7c15;
const INVERSE: usize = inverse(FACTOR);

/// All memory is nearer to an object than this: a processor can address no more.
const REACH: usize = 1 << 52;

/// Zero until drawn. Relaxed: orders nothing.
static SECRET: AtomicUsize = AtomicUsize::new(0);

/// Zero, or the address of the last object found with an invalid link. Relaxed: orders nothing.
static BROKEN: AtomicUsize = AtomicUsize::new(0);

/// Returns the inverse by Newton's method: each step doubles the number of correct bits, three at
/// first.
const fn inverse(odd: usize) -> usize {
    let mut found = odd;
    let mut step = 0;
    while step < 5 {
        found = found.wrapping_mul(2_usize.wrapping_sub(odd.wrapping_mul(found)));
        step += 1;
    }
    found
}

const _: () = assert!(FACTOR.wrapping_mul(INVERSE) == 1);

/// Returns the word written into the free object `object` for the link `next`, which may be null.
#[inline]
pub(super) fn encode(next: *mut u8, object: NonNull<u8>) -> *mut u8 {
    let key = key(object);
    next.map_addr(|address| (address ^ key).wrapping_mul(FACTOR).swap_bytes())
}

/// Returns the link encoded by `word` in the free object `object`. If the link is invalid, records
/// the object, and returns null.
#[inline]
pub(super) fn decode(word: *mut u8, object: NonNull<u8>) -> *mut u8 {
    let key = key(object);
    let next = word.map_addr(|word| word.swap_bytes().wrapping_mul(INVERSE) ^ key);
    let (address, from) = (next.addr(), object.addr().get());
    let is_near = address.abs_diff(from) < REACH && address % size_of::<usize>() == 0;
    if is_near || address == 0 { next } else { note(object) }
}

#[cold]
fn note(object: NonNull<u8>) -> *mut u8 {
    BROKEN.store(object.addr().get(), Ordering::Relaxed);
    core::ptr::null_mut()
}

/// Takes the address of an object with an invalid link, if there is one and it is `ours`.
#[inline]
pub(crate) fn take_broken(ours: impl FnOnce(usize) -> bool) -> Option<usize> {
    let address = BROKEN.load(Ordering::Relaxed);
    if address == 0 || !ours(address) {
        return None;
    }
    // Of several concurrent contexts exactly one takes it.
    BROKEN.compare_exchange(address, 0, Ordering::Relaxed, Ordering::Relaxed).ok()
}

#[inline]
fn key(object: NonNull<u8>) -> usize {
    secret() ^ object.addr().get().rotate_left(32)
}

#[inline]
fn secret() -> usize {
    match SECRET.load(Ordering::Relaxed) {
        0 => draw(),
        secret => secret,
    }
}

#[cold]
fn draw() -> usize {
    let drawn = random() | 1;
    // The first number drawn stays.
    SECRET.compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed).err().unwrap_or(drawn)
}

/// Returns an unpredictable number, from the processor's generator if it has one, and from its
/// clock.
#[cfg(not(miri))]
fn random() -> usize {
    use core::arch::x86_64::{__cpuid, _rdrand64_step, _rdtsc};

    /// The maximum number of attempts: the generator may have no number ready.
    const TRIES: usize = 10;

    #[target_feature(enable = "rdrand")]
    fn generated() -> u64 {
        let mut number = 0;
        let _ = (0..TRIES).any(|_| _rdrand64_step(&mut number) == 1);
        number
    }

    const RDRAND: u32 = 1 << 30;
    // SAFETY: every processor of 64 bits has a time-stamp counter.
    let clock = unsafe { _rdtsc() };
    let has_generator = __cpuid(1).ecx & RDRAND != 0;
    // SAFETY: the processor has the instruction.
    let generated = if has_generator { unsafe { generated() } } else { 0 };
    mix(generated as usize ^ clock as usize)
}

/// Returns a constant: Miri has no such instructions.
#[cfg(miri)]
fn random() -> usize {
    mix(FACTOR)
}

/// Spreads each bit of `number` to each bit of the result (the finaliser of MurmurHash3, Appleby
/// 2011).
fn mix(number: usize) -> usize {
    let number = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let number = (number ^ number >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ number >> 33
}

/// Returns the numbers below `count`, each once, in an order determined by the secret and the
/// address of the slab.
pub(super) fn shuffled(count: usize, slab: NonNull<u8>) -> impl Iterator<Item = usize> {
    /// The number of shuffled slabs: a later slab at the same address has another order. Relaxed:
    /// orders nothing.
    static SLABS: AtomicUsize = AtomicUsize::new(0);

    let slabs = SLABS.fetch_add(1, Ordering::Relaxed);
    let seed = mix(secret() ^ slab.addr().get() ^ mix(slabs));
    let bits = count.next_power_of_two().trailing_zeros();
    (0..1 << bits).map(move |number| permuted(number, bits, seed)).filter(move |&number| number < count)
}

/// Permutes the numbers of `bits` bits according to `seed`: a Feistel network, each round changing
/// one half of the bits by a function of the other half (Luby and Rackoff 1988: four rounds look
/// random).
fn permuted(number: usize, bits: u32, seed: usize) -> usize {
    let (low_bits, high_bits) = (bits / 2, bits - bits / 2);
    let (mut low, mut high) = (number & ((1 << low_bits) - 1), number >> low_bits);
    for round in 0..2 {
        high ^= mix(seed ^ (low << 2 | round << 1)) & ((1 << high_bits) - 1);
        low ^= mix(seed ^ (high << 2 | round << 1 | 1)) & ((1 << low_bits) - 1);
    }
    high << low_bits | low
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::prelude::rust_2024::*;

    use super::*;

    #[test]
    fn links_come_back_and_their_words_tell_nothing() {
        let mut objects = [[0_u64; 2]; 100];
        let objects: Vec<_> = objects.iter_mut().map(|object| NonNull::from(object).cast::<u8>()).collect();
        for pair in objects.windows(2) {
            let word = encode(pair[1].as_ptr(), pair[0]);
            assert_eq!(decode(word, pair[0]), pair[1].as_ptr());
            // In another object the same word is no link.
            assert!(word.addr().abs_diff(pair[0].addr().get()) > 1 << 20, "{word:?}");
            assert!(decode(encode(core::ptr::null_mut(), pair[0]), pair[0]).is_null());
        }
    }

    #[test]
    fn a_word_that_was_written_over_is_no_link() {
        let mut objects = [[0_u64; 2]; 2];
        let [object, other] = objects.each_mut().map(|object| NonNull::from(object).cast::<u8>());
        let word = encode(other.as_ptr(), object);
        for byte in 1..=255_usize {
            assert!(decode(word.map_addr(|word| word ^ byte), object).is_null(), "{byte}");
        }
        assert_eq!(take_broken(|address| address == object.addr().get()), Some(object.addr().get()));
        // Of any words, one in 2^14 is taken for a link.
        let tries: usize = if cfg!(miri) { 1 << 8 } else { 1 << 16 };
        let links = (0..tries).filter(|&word| {
            let word = core::ptr::without_provenance_mut(mix(word));
            !decode(word, object).is_null()
        });
        assert!(links.count() < 25);
        take_broken(|address| address == object.addr().get());
    }

    #[test]
    fn each_number_comes_once() {
        let (mut steps, mut pairs) = (0, 0);
        for count in (1..80).chain([255, 256, 257, 496]) {
            let slab = NonNull::dangling();
            let order: Vec<_> = shuffled(count, slab).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..count), "{count}: {order:?}");
            steps += order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
            pairs += usize::from(count > 1);
            assert!(count < 20 || order != shuffled(count, slab).collect::<Vec<_>>());
        }
        // Where all orders are as likely, two neighbours of each are consecutive on average.
        assert!(steps < 4 * pairs, "{steps} consecutive neighbours in {pairs} orders");
    }
}
