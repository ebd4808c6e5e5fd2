//! Where output goes: the terminal, with one line that is rewritten, or a buffer.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// Between two progress lines where they can't be rewritten.
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Output of one run.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    destination: Destination,
    live_line_shown: bool,
    last_progress: Option<Instant>,
}

#[derive(Debug)]
enum Destination {
    Stdout,
    /// Lines are kept; only progress is shown, after this text.
    Buffer {
        title: String,
        lines: Vec<String>,
    },
}

impl Screen {
    /// Everything is shown.
    pub(crate) fn open() -> Self {
        Self::new(Destination::Stdout)
    }

    /// Only progress is shown, after `title`; the lines are kept.
    pub(crate) fn capturing(title: impl Into<String>) -> Self {
        Self::new(Destination::Buffer { title: title.into(), lines: Vec::new() })
    }

    fn new(destination: Destination) -> Self {
        Self { terminal: stdout().is_terminal(), destination, live_line_shown: false, last_progress: None }
    }

    /// A line that stays.
    pub(crate) fn line(&mut self, text: &str) {
        match &mut self.destination {
            Destination::Buffer { lines, .. } => lines.push(text.to_owned()),
            Destination::Stdout => {
                self.erase();
                write(&format!("{text}\n"));
            }
        }
    }

    /// How far the run is: rewrites its line on a terminal, and is a line of its own now and then elsewhere.
    pub(crate) fn progress(&mut self, text: &str) {
        if self.terminal {
            let title = match &self.destination {
                Destination::Stdout => "",
                Destination::Buffer { title, .. } => title.as_str(),
            };
            write(&format!("\r\x1b[K{title}{}", truncated(text, 100)));
            self.live_line_shown = true;
        } else if self.last_progress.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) {
            self.last_progress = Some(Instant::now());
            self.line(text);
        }
    }

    /// A line that is soon rewritten on a terminal, and not shown elsewhere.
    pub(crate) fn passing(&mut self, text: &str) {
        if self.terminal {
            self.progress(text);
        }
    }

    /// Removes the progress line.
    pub(crate) fn erase(&mut self) {
        if std::mem::take(&mut self.live_line_shown) {
            write("\r\x1b[K");
        }
    }

    /// The lines kept.
    pub(crate) fn into_lines(mut self) -> Vec<String> {
        self.erase();
        match self.destination {
            Destination::Stdout => Vec::new(),
            Destination::Buffer { lines, .. } => lines,
        }
    }
}

fn truncated(text: &str, width: usize) -> &str {
    text.char_indices().nth(width).map_or(text, |(end, _)| &text[..end])
}

/// A reader that went away, as in `| head`, is no reason to fail.
fn write(text: &str) {
    let mut stdout = stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
