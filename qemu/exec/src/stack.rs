//! The stack that a program begins with, as Linux lays it out on x86-64.

extern crate alloc;

use alloc::vec::Vec;
use core::fmt;

/// Bytes that stay unused at the top: 8 zeros, as Linux leaves them.
const END: usize = 8;
/// The auxiliary vector's entries that [`InitialStack`] adds itself.
const AT_NULL: u64 = 0;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;
/// Bytes that a program starts its random numbers with.
pub(crate) const RANDOM_BYTES: usize = 16;

/// Why no stack was laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackError {
    /// No memory for the bytes.
    OutOfMemory,
    /// The bytes are more than lie below the stack's top.
    TooLong,
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StackError::OutOfMemory => f.write_str("no memory to lay out a stack in"),
            StackError::TooLong => f.write_str("the arguments are longer than the stack"),
        }
    }
}

impl core::error::Error for StackError {}

/// An argument, without a zero byte.
pub type Text<'a> = &'a [u8];

/// A stack's first contents.
#[derive(Debug)]
pub struct InitialStack {
    /// The stack pointer: a multiple of 16, where the number of arguments is.
    pub pointer: u64,
    /// What lies from there to the stack's top.
    pub bytes: Vec<u8>,
}

impl InitialStack {
    /// Lays out a stack that ends at `top`, a multiple of 16: arguments, environment and auxiliary vector.
    /// `auxiliary` needs no end, and neither the program's name nor the random bytes, which are the first
    /// of `arguments` and `random`.
    ///
    /// # Errors
    ///
    /// [`StackError`].
    pub fn lay_out(
        top: u64,
        arguments: &[Text<'_>],
        environment: &[Text<'_>],
        auxiliary: &[(u64, u64)],
        random: [u8; RANDOM_BYTES],
    ) -> Result<InitialStack, StackError> {
        let texts = || arguments.iter().chain(environment).copied();
        let text_bytes: usize = texts().map(|text| text.len() + 1).sum();
        // The count, two lists of pointers with a zero at their ends, and pairs with one more for each of
        // the name, the random bytes and the end.
        let words = 1 + arguments.len() + 1 + environment.len() + 1 + 2 * (auxiliary.len() + 3);
        let bytes = 8 * words + RANDOM_BYTES + text_bytes + END;
        let total = bytes.next_multiple_of(16);
        let pointer = top.checked_sub(total as u64).ok_or(StackError::TooLong)?;
        let random_at = top - (END + text_bytes + RANDOM_BYTES) as u64;
        let text_at = top - (END + text_bytes) as u64;

        let mut stack = Vec::new();
        stack.try_reserve_exact(total).map_err(|_| StackError::OutOfMemory)?;
        let mut push = |word: u64| stack.extend_from_slice(&word.to_le_bytes());
        push(arguments.len() as u64);
        let mut at = text_at;
        for list in [arguments, environment] {
            for text in list {
                push(at);
                at += text.len() as u64 + 1;
            }
            push(0);
        }
        let own = [(AT_RANDOM, random_at), (AT_EXECFN, text_at), (AT_NULL, 0)];
        for &(key, value) in auxiliary.iter().chain(&own) {
            push(key);
            push(value);
        }
        stack.resize(total - (END + text_bytes + RANDOM_BYTES), 0);
        stack.extend_from_slice(&random);
        for text in texts() {
            stack.extend_from_slice(text);
            stack.push(0);
        }
        stack.resize(total, 0);
        Ok(InitialStack { pointer, bytes: stack })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOP: u64 = 0x7fff_0000_0000;

    /// A program's view of its stack.
    struct Reader<'a>(&'a InitialStack, u64);

    impl Reader<'_> {
        fn word(&mut self) -> u64 {
            let at = (self.1 - self.0.pointer) as usize;
            self.1 += 8;
            u64::from_le_bytes(self.0.bytes[at..at + 8].try_into().unwrap())
        }

        fn text(&self, at: u64) -> Vec<u8> {
            let at = (at - self.0.pointer) as usize;
            self.0.bytes[at..].iter().copied().take_while(|&byte| byte != 0).collect()
        }

        fn list(&mut self) -> Vec<Vec<u8>> {
            std::iter::from_fn(|| Some(self.word()).filter(|&at| at != 0).map(|at| self.text(at))).collect()
        }
    }

    proptest! {
        #[test]
        fn a_program_finds_what_it_was_given(
            arguments in prop::collection::vec(prop::collection::vec(1u8.., 0..20), 1..5),
            environment in prop::collection::vec(prop::collection::vec(1u8.., 0..20), 0..5),
            auxiliary in prop::collection::vec((32u64.., any::<u64>()), 0..5),
            random: [u8; RANDOM_BYTES],
        ) {
            let slices = |texts: &'_ [Vec<u8>]| texts.iter().map(|text| text.as_slice().to_vec()).collect::<Vec<_>>();
            let (given, given_environment) = (slices(&arguments), slices(&environment));
            let given: Vec<&[u8]> = given.iter().map(Vec::as_slice).collect();
            let given_environment: Vec<&[u8]> = given_environment.iter().map(Vec::as_slice).collect();
            let stack = InitialStack::lay_out(TOP, &given, &given_environment, &auxiliary, random).unwrap();
            prop_assert_eq!(stack.pointer % 16, 0);
            prop_assert_eq!(stack.pointer + stack.bytes.len() as u64, TOP);
            let mut reader = Reader(&stack, stack.pointer);
            prop_assert_eq!(reader.word(), arguments.len() as u64);
            prop_assert_eq!(reader.list(), arguments.clone());
            prop_assert_eq!(reader.list(), environment);
            let mut found = Vec::new();
            loop {
                let (key, value) = (reader.word(), reader.word());
                match key {
                    AT_NULL => break,
                    AT_RANDOM => {
                        let at = (value - stack.pointer) as usize;
                        prop_assert_eq!(&stack.bytes[at..at + RANDOM_BYTES], &random);
                    }
                    AT_EXECFN => prop_assert_eq!(reader.text(value), arguments[0].clone()),
                    _ => found.push((key, value)),
                }
            }
            prop_assert_eq!(found, auxiliary);
        }
    }

    #[test]
    fn arguments_longer_than_the_stack_are_refused() {
        let refused = InitialStack::lay_out(64, &[b"a name"], &[], &[], [0; RANDOM_BYTES]);
        assert_eq!(refused.unwrap_err(), StackError::TooLong);
    }
}
