//! Little-endian fields at byte offsets.

/// The bytes of a structure. Reads past the end give 0: parsers check a structure's length before
/// reading it, and no field is worth a panic.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(self, offset: usize) -> [u8; N] {
        let field = offset.checked_add(N).and_then(|end| self.0.get(offset..end));
        field.and_then(|field| field.try_into().ok()).unwrap_or([0; N])
    }

    pub(super) fn u8(self, offset: usize) -> u8 {
        u8::from_le_bytes(self.bytes(offset))
    }

    pub(super) fn u16(self, offset: usize) -> u16 {
        u16::from_le_bytes(self.bytes(offset))
    }

    pub(super) fn u32(self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }

    pub(super) fn u64(self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes(offset))
    }
}
