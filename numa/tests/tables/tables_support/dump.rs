//! Reads `acpidump`'s text: a line `SRAT @ 0x...`, then `    0010: 42 58 ...  text`.

use std::fs;
use std::path::{Path, PathBuf};

use super::Tables;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tables")
}

/// The names of all machines dumped.
pub(crate) fn machines() -> Vec<String> {
    let entries = fs::read_dir(root()).expect("tests/tables");
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

pub(crate) fn machine(name: &str) -> Tables {
    let directory = root().join(name);
    let table = |signature: &str| {
        let path = directory.join(format!("{signature}.hex"));
        path.exists().then(|| parse(&fs::read_to_string(path).unwrap(), signature))
    };
    Tables {
        madt: table("APIC"),
        srat: table("SRAT"),
        slit: table("SLIT"),
        hmat: table("HMAT"),
        cedt: table("CEDT"),
        root_checksum: 0,
    }
}

/// The bytes of table `signature` in `text`.
pub(crate) fn parse(text: &str, signature: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let title = lines.find(|line| line.starts_with(&format!("{signature} @ "))).expect("title");
    assert!(title.contains("0x"), "{title}");
    let mut bytes = Vec::new();
    for line in lines.take_while(|line| line.starts_with(' ')) {
        let (offset, rest) = line.trim_start().split_once(": ").expect("offset");
        assert_eq!(usize::from_str_radix(offset, 16).unwrap(), bytes.len());
        // Two blanks end the bytes; the text after them may look like anything.
        let (hex, _) = rest.split_once("  ").unwrap_or((rest, ""));
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}
