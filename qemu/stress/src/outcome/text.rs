//! Errors as text, for failures that outlive what they are about.

use core::fmt;

use arrayvec::ArrayString;

/// How many bytes a text has room for.
const ROOM: usize = 120;

/// A short text that needs no heap; what does not fit is cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text(ArrayString<ROOM>);

impl Text {
    /// `value` as it displays.
    #[must_use]
    pub fn display(value: &dyn fmt::Display) -> Text {
        Text::format(format_args!("{value}"))
    }

    /// `value` as it debugs: for errors that display nothing.
    #[must_use]
    pub fn debug(value: &dyn fmt::Debug) -> Text {
        Text::format(format_args!("{value:?}"))
    }

    fn format(value: fmt::Arguments<'_>) -> Text {
        let mut cut = Cut(ArrayString::new());
        // `Cut` takes as much as fits and never fails; a failing `Display` leaves a shorter text.
        let _ = fmt::write(&mut cut, value);
        Text(cut.0)
    }
}

struct Cut(ArrayString<ROOM>);

impl fmt::Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.try_push(character).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_off() {
        assert_eq!(Text::display(&"short").to_string(), "short");
        assert_eq!(Text::debug(&Some(1)).to_string(), "Some(1)");
        let long = "\u{e9}".repeat(ROOM);
        assert_eq!(Text::display(&long).to_string().len(), ROOM);
    }
}
