//! The `key=value` words of the kernel's command line.

/// The command line, looked up word by word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandLine<'a>(pub &'a str);

impl<'a> CommandLine<'a> {
    /// The value of the last word `key=value`.
    pub(crate) fn value(self, key: &str) -> Option<&'a str> {
        self.0.split_ascii_whitespace().rev().find_map(|word| {
            let (name, value) = word.split_once('=')?;
            (name == key).then_some(value)
        })
    }

    /// The value of `key` as a number; `None` where it is absent or not one.
    pub(crate) fn number(self, key: &str) -> Option<u64> {
        self.value(key)?.parse().ok()
    }
}
