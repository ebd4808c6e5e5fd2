//! Files whose content the kernel makes up whenever they are read.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Such a file, kept open.
#[derive(Debug)]
pub(crate) struct PseudoFile {
    file: File,
    /// Kept, so that reading doesn't allocate.
    text: Vec<u8>,
}

/// Bytes that are read at most.
const ROOM: usize = 1 << 17;

impl PseudoFile {
    pub(crate) fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, text: vec![0; ROOM] })
    }

    /// What the file says now.
    pub(crate) fn read(&mut self) -> io::Result<Cow<'_, str>> {
        let mut filled = 0;
        while let Some(rest) = self.text.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(String::from_utf8_lossy(self.text.get(..filled).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_anew_each_time() {
        let mut file = PseudoFile::open("/proc/self/stat").unwrap();
        let numbers = |file: &mut PseudoFile| file.read().unwrap().split(' ').count();
        assert!(numbers(&mut file) > 20);
        assert!(numbers(&mut file) > 20);
    }
}
