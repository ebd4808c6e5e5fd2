//! Names of regions.

use core::fmt;

/// The name of a region: up to 79 bytes of printable ASCII (prctl(PR_SET_VMA_ANON_NAME) of Linux).
///
/// ```
/// use topomem::region::RegionName;
///
/// assert_eq!(RegionName::new("thread stack")?.as_str(), "thread stack");
/// assert!(RegionName::new("a\tb").is_err());
/// # Ok::<(), topomem::region::NameError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionName {
    length: u8,
    bytes: [u8; RegionName::MAX_LENGTH],
}

/// The reason why a text is not a region's name.
///
/// ```
/// use topomem::region::RegionName;
///
/// let error = RegionName::new(&"long".repeat(30)).unwrap_err();
/// assert!(!error.to_string().is_empty());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// The text is longer than [`RegionName::MAX_LENGTH`] bytes.
    TooLong,
    /// This byte is not printable ASCII, or is one of `` \`$[] ``.
    BadByte(u8),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::TooLong => f.write_str("the name is too long"),
            NameError::BadByte(byte) => write!(f, "a name has no byte {byte:#04x}"),
        }
    }
}

impl core::error::Error for NameError {}

impl RegionName {
    /// Greatest number of bytes of a name.
    pub const MAX_LENGTH: usize = 79;

    /// Returns `name` as the name of a region.
    ///
    /// # Errors
    ///
    /// - [`NameError::TooLong`] if the text has more than [`RegionName::MAX_LENGTH`] bytes.
    /// - [`NameError::BadByte`] if the text has a byte not allowed in names.
    ///
    /// ```
    /// use topomem::region::RegionName;
    ///
    /// assert!(RegionName::new("cache of pages").is_ok());
    /// assert!(RegionName::new(&"long".repeat(30)).is_err());
    /// ```
    pub fn new(name: &str) -> Result<RegionName, NameError> {
        let bad = |byte: &u8| !matches!(byte, b' '..=b'~') || br"\`$[]".contains(byte);
        if let Some(byte) = name.bytes().find(bad) {
            return Err(NameError::BadByte(byte));
        }
        let mut bytes = [0; RegionName::MAX_LENGTH];
        bytes.get_mut(..name.len()).ok_or(NameError::TooLong)?.copy_from_slice(name.as_bytes());
        Ok(RegionName { length: name.len() as u8, bytes })
    }

    /// Returns the name as text.
    ///
    /// ```
    /// use topomem::region::RegionName;
    ///
    /// assert_eq!(RegionName::new("cache").unwrap().as_str(), "cache");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length.into()]).unwrap_or_default()
    }
}

impl fmt::Debug for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
