//! loom explores the reserve between CPUs.

use std::sync::Arc;
use std::vec::Vec;

use loom::thread;

use super::*;

/// A reserve of `len` objects, which are numbers dressed up as addresses, in a block that lives for good.
fn block(numbers: &[usize]) -> NewBlock {
    let layout = NewBlock::layout(numbers.len()).unwrap();
    // SAFETY: the layout has bytes.
    let memory = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap();
    // SAFETY: just allocated for so many slots, and not freed while the block is used.
    let block = unsafe { NewBlock::new(memory, numbers.len()) };
    for (index, number) in numbers.iter().enumerate() {
        block.fill(index, NonNull::new(ptr::without_provenance_mut(*number)).unwrap());
    }
    block
}

/// Takes the reserve apart; the numbers that it had.
fn numbers(reserve: Arc<Reserve>) -> Vec<usize> {
    let Ok(mut reserve) = Arc::try_unwrap(reserve) else { panic!("a thread has it still") };
    let (mut numbers, spare) = (Vec::new(), reserve.spare());
    while let Some(block) = reserve.remove() {
        let (memory, len) = block.dissolve(|object| numbers.push(object.addr().get()));
        // SAFETY: `block` allocated it with this layout.
        unsafe { std::alloc::dealloc(memory.as_ptr(), NewBlock::layout(len).unwrap()) };
    }
    assert_eq!(spare, numbers.len(), "what is counted is there");
    numbers.sort_unstable();
    numbers
}

#[test]
fn nobody_fails_while_as_many_are_out_as_were_reserved() {
    // All schedules take minutes; faults of such protocols show with few preemptions.
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let reserve = Arc::new(Reserve::new());
        reserve.add(block(&[8, 16]));
        let user = |reserve: Arc<Reserve>| {
            move || {
                let object = reserve.take().expect("there is one for each of two users");
                reserve.put(object).expect("the one that was taken is missing");
            }
        };
        let other = thread::spawn(user(reserve.clone()));
        user(reserve.clone())();
        other.join().unwrap();
        assert_eq!(numbers(reserve), [8, 16]);
    });
}

#[test]
fn of_two_that_want_the_last_one_gets_it() {
    loom::model(|| {
        let reserve = Arc::new(Reserve::new());
        reserve.add(block(&[8]));
        let other = {
            let reserve = reserve.clone();
            thread::spawn(move || reserve.take().map(|object| object.addr().get()))
        };
        let mine = reserve.take().map(|object| object.addr().get());
        let theirs = other.join().unwrap();
        assert_eq!(mine.xor(theirs), Some(8));
        // A foreign object fills the slot; a second one finds no room.
        let object = |number| NonNull::new(ptr::without_provenance_mut(number)).unwrap();
        assert_eq!(reserve.put(object(24)), Ok(()));
        assert_eq!(reserve.put(object(32)), Err(object(32)));
        assert_eq!(numbers(reserve), [24]);
    });
}

#[test]
fn a_block_may_be_added_meanwhile() {
    loom::model(|| {
        let reserve = Arc::new(Reserve::new());
        reserve.add(block(&[8]));
        let other = {
            let reserve = reserve.clone();
            thread::spawn(move || reserve.add(block(&[16])))
        };
        let object = reserve.take().expect("there was one before");
        reserve.put(object).expect("the one that was taken is missing");
        other.join().unwrap();
        assert_eq!(numbers(reserve), [8, 16]);
    });
}
