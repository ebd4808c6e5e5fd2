//! Tables and memory maps as text.

/// A line of an acpidump is not one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Its number, from 1.
    pub(super) number: usize,
    pub(super) reason: &'static str,
}

/// A table's signature and its bytes.
pub(super) type Dump = (String, Vec<u8>);

/// The tables in acpidump's text: a line `SRAT @ 0x...`, then lines of an offset and up to 16 bytes, with
/// the same as characters behind them. Lines outside tables are skipped.
pub(super) fn tables(text: &str) -> Result<Vec<Dump>, BadLine> {
    let mut tables: Vec<Dump> = Vec::new();
    let mut inside = false;
    for (line, number) in text.lines().zip(1..) {
        if let Some(signature) = title(line) {
            tables.push((signature.to_owned(), Vec::new()));
            inside = true;
            continue;
        }
        inside &= line.starts_with(' ') && !line.trim().is_empty();
        if let Some((_, table)) = tables.last_mut().filter(|_| inside) {
            bytes(line, table).map_err(|reason| BadLine { number, reason })?;
        }
    }
    Ok(tables)
}

/// The signature in a title line.
fn title(line: &str) -> Option<&str> {
    let (signature, address) = line.split_once(" @ ")?;
    (signature.len() == 4 && address.trim_start().starts_with("0x")).then_some(signature)
}

/// Adds a line's bytes to `table`.
fn bytes(line: &str, table: &mut Vec<u8>) -> Result<(), &'static str> {
    let (offset, rest) = line.trim_start().split_once(':').ok_or("no offset")?;
    let offset = usize::from_str_radix(offset.trim(), 16).map_err(|_| "the offset is no number")?;
    if offset != table.len() {
        return Err("bytes before this line are missing");
    }
    // Three columns for each byte; the text behind them may look like anything.
    let columns = rest.strip_prefix(' ').unwrap_or(rest);
    let columns = columns.get(..columns.len().min(16 * 3)).ok_or("no bytes")?;
    let (columns, _) = columns.split_once("  ").unwrap_or((columns, ""));
    let before = table.len();
    for byte in columns.split_whitespace() {
        table.push(u8::from_str_radix(byte, 16).map_err(|_| "a byte is no number")?);
    }
    if table.len() == before { Err("no bytes") } else { Ok(()) }
}

/// The usable ranges of a memory map, start and end, end exclusive: lines of two addresses, the second
/// inclusive, and `usable`. So Linux's log writes a BIOS's map.
pub(super) fn usable(text: &str) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        let at = words.iter().position(|word| word.starts_with("0x"))?;
        let [start, end, "usable", ..] = words[at..] else { return None };
        let number = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
        Some((number(start)?, number(end)?.checked_add(1)?))
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_several_tables() {
        let text = "some header\n\nSRAT @ 0x0000000000001000\n    \
                    0000: 53 52 41 54 10 01 00 00 01 EB 42 4F 43 48 53 20  SRAT......BOCHS \n    \
                    0010: 21                                               !\n\n\
                    SLIT @ 0x2000\n  0000: 01 0a  ..\n";
        let [srat, slit] = tables(text).unwrap().try_into().unwrap();
        assert_eq!((srat.0.as_str(), srat.1.len(), srat.1[16]), ("SRAT", 17, 0x21));
        assert_eq!(slit, ("SLIT".to_owned(), vec![1, 10]));
        assert_eq!(tables("no table\n").unwrap(), []);
    }

    #[test]
    fn names_lines_that_are_none() {
        let bad = |line: &str| tables(&format!("SRAT @ 0x0\n{line}\n")).unwrap_err();
        assert_eq!(bad("    0010: 00"), BadLine { number: 2, reason: "bytes before this line are missing" });
        assert_eq!(bad("    0000: 0g"), BadLine { number: 2, reason: "a byte is no number" });
        assert_eq!(bad("    zz: 00"), BadLine { number: 2, reason: "the offset is no number" });
        assert_eq!(bad("    what"), BadLine { number: 2, reason: "no offset" });
        assert_eq!(bad("    0000: "), BadLine { number: 2, reason: "no bytes" });
    }

    #[test]
    fn reads_memory_maps() {
        let log = "[    0.0] BIOS-e820: [mem 0x0000000000100000-0x00000000bffdefff] usable\n\
                   [    0.0] BIOS-e820: [mem 0x00000000bffdf000-0x00000000bfffffff] reserved\n";
        assert_eq!(usable(log), [(0x10_0000, 0xbffd_f000)]);
        assert_eq!(usable("0x0 0x9fbff usable\n0x9fc00 0x9ffff reserved\n"), [(0, 0x9_fc00)]);
        assert_eq!(usable("usable 0x0\n0x1\n0x0 0xffffffffffffffff usable\n"), []);
    }
}
