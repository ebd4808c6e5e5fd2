//! How large an image is, as `size` counts.

use std::path::Path;

use elf::ElfBytes;
use elf::abi::{SHF_ALLOC, SHF_WRITE, SHT_NOBITS};
use elf::endian::LittleEndian;

use crate::error::Error;

/// Bytes of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Code and constants.
    pub(super) text: u64,
    /// Initialised variables.
    pub(super) data: u64,
    /// Variables that are zero at first, which are in memory only.
    pub(super) bss: u64,
}

/// Reads the sizes of an ELF file's sections.
pub(super) fn size(path: &Path) -> Result<Size, Error> {
    let bytes = std::fs::read(path).map_err(Error::file(path))?;
    let no_image = |error: elf::ParseError| Error::file(path)(std::io::Error::other(error.to_string()));
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes).map_err(no_image)?;
    let mut size = Size::default();
    for section in elf.section_headers().into_iter().flatten() {
        let flags = section.sh_flags;
        if flags & u64::from(SHF_ALLOC) == 0 {
            continue;
        }
        if section.sh_type == SHT_NOBITS {
            size.bss += section.sh_size;
        } else if flags & u64::from(SHF_WRITE) != 0 {
            size.data += section.sh_size;
        } else {
            size.text += section.sh_size;
        }
    }
    Ok(size)
}
