//! Files in the form of `cpio`, the newer one with addresses in ASCII (magic 070701).

const MAGIC: &[u8] = b"070701";
const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";
/// The header's fields of 8 hexadecimal digits that matter: the file's mode, its bytes, and the bytes of
/// its name with the zero at its end.
const MODE: usize = 1;
const FILE_SIZE: usize = 6;
const NAME_SIZE: usize = 11;
/// The bits of a mode that say what kind of file it is, and a regular file's.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// A RAM disk, in the order in which it was written.
#[derive(Debug, Clone, Copy)]
pub struct Archive<'a> {
    bytes: &'a [u8],
}

/// A regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<'a> {
    /// Its path, without a slash at the start.
    pub name: &'a [u8],
    /// What is in it.
    pub content: &'a [u8],
}

impl<'a> Archive<'a> {
    /// The archive in `bytes`. What follows a malformed header is left out.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Archive<'a> {
        Archive { bytes }
    }

    /// The regular files.
    pub fn files(self) -> impl Iterator<Item = File<'a>> {
        let mut offset = 0;
        core::iter::from_fn(move || {
            loop {
                let (mode, file, next) = entry(self.bytes, offset)?;
                offset = next;
                if mode & KIND == REGULAR {
                    return Some(file);
                }
            }
        })
    }

    /// The file at `path`, with or without a slash at the start.
    #[must_use]
    pub fn find(self, path: &[u8]) -> Option<File<'a>> {
        let name = path.strip_prefix(b"/").unwrap_or(path);
        self.files().find(|file| file.name == name)
    }
}

/// The entry at `offset`: its mode, what it is, and where the next one begins. `None` for the last.
fn entry(bytes: &[u8], offset: usize) -> Option<(u32, File<'_>, usize)> {
    let header = bytes.get(offset..)?.get(..HEADER)?;
    let fields = header.strip_prefix(MAGIC)?;
    let field = |index: usize| number(fields.get(8 * index..)?.get(..8)?);
    let name_start = offset + HEADER;
    let name_end = name_start.checked_add(field(NAME_SIZE)? as usize)?;
    let name = bytes.get(name_start..name_end)?.strip_suffix(b"\0")?;
    if name == TRAILER {
        return None;
    }
    let start = name_end.checked_next_multiple_of(4)?;
    let end = start.checked_add(field(FILE_SIZE)? as usize)?;
    let content = bytes.get(start..end)?;
    Some((field(MODE)?, File { name, content }, end.checked_next_multiple_of(4)?))
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, &digit| Some(number << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(mode: u32, size: usize, name: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for field in 0..13 {
            let value = match field {
                MODE => mode as usize,
                FILE_SIZE => size,
                NAME_SIZE => name.len() + 1,
                _ => 0,
            };
            bytes.extend(format!("{value:08X}").bytes());
        }
        bytes.extend(name.bytes().chain([0]));
        bytes
    }

    fn pad(bytes: &mut Vec<u8>) {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn archive(files: &[(u32, &str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(mode, name, content) in files {
            bytes.extend(header(mode, content.len(), name));
            pad(&mut bytes);
            bytes.extend(content);
            pad(&mut bytes);
        }
        bytes.extend(header(0, 0, "TRAILER!!!"));
        bytes
    }

    #[test]
    fn finds_regular_files_by_path() {
        let bytes =
            archive(&[(0o100_755, "bin/a", b"one"), (0o040_755, "dir", b""), (0o100_644, "b", b"three")]);
        let archive = Archive::new(&bytes);
        assert_eq!(archive.files().map(|file| file.name).collect::<Vec<_>>(), [b"bin/a".as_slice(), b"b"]);
        assert_eq!(archive.find(b"/bin/a").unwrap().content, b"one");
        assert_eq!(archive.find(b"b").unwrap().content, b"three");
        assert_eq!(archive.find(b"dir"), None);
        assert_eq!(archive.find(b"c"), None);
    }

    #[test]
    fn a_cut_archive_has_the_files_before_the_cut() {
        let bytes = archive(&[(0o100_755, "a", b"one"), (0o100_644, "b", b"three")]);
        for end in 0..bytes.len() {
            let found = Archive::new(&bytes[..end]).files().count();
            assert!(found <= 2);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic: bool) {
            if magic && bytes.len() >= MAGIC.len() {
                bytes[..MAGIC.len()].copy_from_slice(MAGIC);
            }
            let _ = Archive::new(&bytes).files().count();
        }

        #[test]
        fn a_changed_archive_does_no_harm(at in 0usize..400, to: u8) {
            let mut bytes = archive(&[(0o100_755, "a", b"one"), (0o100_644, "b", b"three")]);
            let at = at % bytes.len();
            bytes[at] = to;
            prop_assert!(Archive::new(&bytes).files().count() <= 2);
        }
    }
}
