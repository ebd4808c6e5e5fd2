//! `cargo xtask acpidump`: a machine's firmware tables as text files, in the form of the acpidump tool.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cli::{AcpidumpArgs, Levels, ScenarioOptions};
use crate::error::Error;
use crate::machines::boot::failed_early;
use crate::machines::kernel::{Kernel, Variant};
use crate::machines::matrix::PLAIN_EMULATION;
use crate::qemu::{self, Job};
use crate::report::Screen;
use crate::run::record::TablePiece;
use crate::tools::{self, Tool};
use crate::workspace;

/// Name of the kernel's scenario that dumps the tables.
const SCENARIO: &str = "acpidump";

/// Boots the kernel to dump the tables, and saves each as `SIG.hex`. Did it succeed?
pub(crate) fn acpidump(arguments: &AcpidumpArgs) -> Result<bool, Error> {
    let spec = arguments.machine.spec(workspace::root())?;
    tools::ensure(&[Tool::KernelTarget, Tool::Qemu])?;
    let kernel = Kernel::build(Variant::Plain)?;
    let scenario = ScenarioOptions {
        scenario: SCENARIO.to_owned(),
        seconds: 1,
        seed: 1,
        fault: None,
        levels: Levels::Four,
        tlb: None,
        module: None,
    };
    let mut screen = Screen::open();
    let job =
        Job { kernel: &kernel, spec: &spec, scenario: &scenario, words: "", emulation: PLAIN_EMULATION };
    let finished = qemu::run(job, &mut screen)?;
    if failed_early(&finished, &mut screen) {
        return Ok(false);
    }
    std::fs::create_dir_all(&arguments.out).map_err(Error::file(&arguments.out))?;
    for (signature, table) in assemble(&finished.tables)? {
        let file = arguments.out.join(format!("{signature}.hex"));
        std::fs::write(&file, dump(&signature, &table)).map_err(Error::file(&file))?;
        screen.line(&format!("{}: {} bytes", file.display(), table.bytes.len()));
    }
    Ok(true)
}

#[derive(Debug, Default, PartialEq)]
struct Table {
    address: u64,
    bytes: Vec<u8>,
}

/// Puts tables together from their pieces, which come in order.
fn assemble(pieces: &[TablePiece]) -> Result<BTreeMap<String, Table>, Error> {
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    for piece in pieces {
        let table = tables.entry(piece.signature.clone()).or_default();
        let gap = |expected| Error::TableDump {
            signature: piece.signature.clone(),
            expected,
            offset: piece.offset,
        };
        if piece.offset != table.bytes.len() {
            return Err(gap(table.bytes.len()));
        }
        if piece.offset == 0 {
            table.address = piece.address;
        }
        let digits: Option<Vec<u8>> =
            piece.hex.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0).ok_or_else(|| gap(table.bytes.len()))?;
        table.bytes.extend(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    }
    Ok(tables)
}

/// A table in acpidump's form: offset, 16 bytes, and the same as characters.
fn dump(signature: &str, table: &Table) -> String {
    let mut text = format!("{signature} @ 0x{:016X}\n", table.address);
    for (line, bytes) in table.bytes.chunks(16).enumerate() {
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string doesn't fail.
            let _ = write!(hex, "{byte:02X} ");
            hex
        });
        let printable = |&byte: &u8| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '.' };
        let characters: String = bytes.iter().map(printable).collect();
        let _ = writeln!(text, "    {:04X}: {}", line * 16, format!("{hex:<48} {characters}").trim_end());
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: usize, hex: &str) -> TablePiece {
        TablePiece { signature: "SRAT".to_owned(), offset, hex: hex.to_owned(), address: 0x1000 }
    }

    #[test]
    fn puts_pieces_together() {
        let tables = assemble(&[piece(0, "53524154"), piece(4, "0aFf")]).unwrap();
        assert_eq!(tables["SRAT"], Table { address: 0x1000, bytes: b"SRAT\x0a\xff".to_vec() });
    }

    #[test]
    fn refuses_gaps_and_nonsense() {
        for pieces in [vec![piece(4, "00")], vec![piece(0, "0")], vec![piece(0, "zz")]] {
            assert!(matches!(assemble(&pieces), Err(Error::TableDump { .. })), "{pieces:?}");
        }
    }

    #[test]
    fn writes_acpidumps_form() {
        let table = Table { address: 0x1000, bytes: b"SRAT\x10\x01\x00\x00\x01\xebBOCHS !".to_vec() };
        assert_eq!(
            dump("SRAT", &table),
            "SRAT @ 0x0000000000001000\n    \
             0000: 53 52 41 54 10 01 00 00 01 EB 42 4F 43 48 53 20  SRAT......BOCHS\n    \
             0010: 21                                               !\n\n"
        );
    }
}
