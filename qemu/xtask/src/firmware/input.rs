//! The files of one machine: tables as acpidump's text or as bytes, and a memory map.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use topomem_numa::FirmwareTables;
use topomem_numa::tables::Table;

use super::{FirmwareError, text};
use crate::error::Error;

/// Bytes in a table's header.
const HEADER: usize = 36;

/// What the files of one machine hold.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// By signature, the first of each.
    tables: BTreeMap<[u8; 4], Vec<u8>>,
    /// Usable ranges of the memory map, start and end, end exclusive.
    pub(super) usable: Vec<(u64, u64)>,
    /// Files that hold neither.
    pub(super) left_out: Vec<PathBuf>,
}

impl Input {
    /// Reads `paths`: files, and folders of files. Folders in folders are skipped.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut input = Self::default();
        for path in paths {
            if path.is_dir() {
                let entries = std::fs::read_dir(path).map_err(Error::file(path))?;
                let mut files = Vec::new();
                for entry in entries {
                    files.push(entry.map_err(Error::file(path))?.path());
                }
                files.retain(|file| !file.is_dir());
                files.sort();
                files.iter().try_for_each(|file| input.file(file))?;
            } else {
                input.file(path)?;
            }
        }
        let known = |table: Table| input.tables.contains_key(&table.signature());
        if ![Table::Madt, Table::Srat, Table::Slit, Table::Hmat, Table::Cedt].into_iter().any(known) {
            return Err(Error::Firmware(FirmwareError::NoTables));
        }
        Ok(input)
    }

    fn file(&mut self, path: &Path) -> Result<(), Error> {
        let bytes = std::fs::read(path).map_err(Error::file(path))?;
        if let Some(signature) = binary(&bytes) {
            self.tables.entry(signature).or_insert(bytes);
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes);
        let tables = text::tables(&text).map_err(|bad| {
            Error::Firmware(FirmwareError::Line {
                path: path.to_owned(),
                number: bad.number,
                reason: bad.reason,
            })
        })?;
        let usable = text::usable(&text);
        if tables.is_empty() && usable.is_empty() {
            self.left_out.push(path.to_owned());
        }
        self.usable.extend(usable);
        for (signature, bytes) in tables {
            if let Ok(signature) = signature.as_bytes().try_into() {
                self.tables.entry(signature).or_insert(bytes);
            }
        }
        Ok(())
    }

    /// The tables as the kernel would find them.
    pub(super) fn tables(&self) -> FirmwareTables<'_> {
        let table = |signature: [u8; 4]| self.tables.get(&signature).map(Vec::as_slice);
        let of = |known: Table| table(known.signature());
        let root = table(*b"XSDT").or(table(*b"RSDT")).unwrap_or_default();
        FirmwareTables {
            madt: of(Table::Madt),
            srat: of(Table::Srat),
            slit: of(Table::Slit),
            hmat: of(Table::Hmat),
            cedt: of(Table::Cedt),
            root_checksum: root.iter().fold(0, |sum, &byte| sum.wrapping_add(byte)),
        }
    }
}

/// The signature of a file that holds a table's bytes: it begins with a signature and, unlike text, with
/// a length that is a small number.
fn binary(bytes: &[u8]) -> Option<[u8; 4]> {
    let signature: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let is_one = signature.iter().all(|&c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_');
    (is_one && bytes.len() >= HEADER && bytes[7] == 0).then_some(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_bytes_from_text() {
        let mut table = vec![0u8; HEADER];
        table[..5].copy_from_slice(b"SRAT\x24");
        assert_eq!(binary(&table), Some(*b"SRAT"));
        assert_eq!(binary(&table[..HEADER - 1]), None);
        assert_eq!(binary(b"SRAT @ 0x0000000000000000\n    0000: 53 52 41 54"), None);
    }

    #[test]
    fn reads_bytes_and_notes_what_it_cannot_use() {
        let folder = std::env::temp_dir().join(format!("topomem-input-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("data")).unwrap();
        let mut table = vec![0u8; HEADER];
        table[..5].copy_from_slice(b"SRAT\x24");
        std::fs::write(folder.join("SRAT"), &table).unwrap();
        let mut root = table.clone();
        root[..5].copy_from_slice(b"XSDT\x24");
        std::fs::write(folder.join("XSDT"), &root).unwrap();
        std::fs::write(folder.join("notes"), "nothing of use").unwrap();
        let input = Input::read(std::slice::from_ref(&folder)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(input.tables().srat, Some(&table[..]));
        assert_eq!(input.tables().root_checksum, root.iter().fold(0, |sum: u8, &b| sum.wrapping_add(b)));
        assert_eq!(input.left_out, [folder.join("notes")]);
    }
}
