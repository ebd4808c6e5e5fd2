//! A static ELF executable for x86-64: what is where, and what may be done there.

use core::fmt;

use arrayvec::ArrayVec;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_GNU_STACK, PT_INTERP, PT_LOAD, PT_PHDR};
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;

use crate::PAGE;

/// Segments that an executable may have.
const MAX_SEGMENTS: usize = 16;
/// Bytes of a program header.
const PROGRAM_HEADER_BYTES: u64 = 56;

/// The addresses that a program may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first, a multiple of [`PAGE`].
    pub start: u64,
    /// Where they end, a multiple of [`PAGE`].
    pub end: u64,
}

/// What a program may do with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Read it.
    Read,
    /// Read and write it.
    Write,
    /// Read and execute it.
    Execute,
    /// Read, write and execute it.
    WriteExecute,
}

/// Part of a program, in whole pages of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its first page, by address.
    pub start: u64,
    /// Where its pages end.
    pub end: u64,
    /// Where `content` goes. All else in the pages is zero.
    pub address: u64,
    /// What is in it.
    pub content: &'a [u8],
    /// What may be done with it.
    pub access: Access,
}

/// Whether a program says where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Its addresses are as they are.
    Fixed,
    /// It may be moved by any multiple of [`PAGE`], and does the rest itself.
    Anywhere,
}

/// Where a program finds its own program headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramHeaders {
    /// Where the first is, if a segment holds it.
    pub address: Option<u64>,
    /// Bytes of each.
    pub bytes: u64,
    /// How many there are.
    pub count: u64,
}

/// A program.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    /// Where it begins.
    pub entry: u64,
    /// May it be moved?
    pub placement: Placement,
    /// Its program headers.
    pub headers: ProgramHeaders,
    /// Does it want an executable stack?
    pub wants_executable_stack: bool,
    /// Its parts, by address; no two have a page in common.
    pub segments: ArrayVec<Segment<'a>, MAX_SEGMENTS>,
}

/// Why a file is no program that can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageError {
    /// No ELF file of 64 bits, or a header that leaves the file.
    Malformed,
    /// For another machine, by ELF's number.
    Machine(u16),
    /// No executable, by ELF's number of the type.
    Kind(u16),
    /// It needs another program to load it.
    Interpreter,
    /// Nothing to load.
    NoSegments,
    /// More than the loader has room for.
    TooManySegments,
    /// The segment at this address holds more of the file than it has bytes, or leaves the file.
    Content(u64),
    /// The segment at this address leaves what a program may have.
    OutOfBounds(u64),
    /// The segment at this address and its place in the file differ by a part of a page.
    Misaligned(u64),
    /// The segment at this address has a page in common with another, or comes before it.
    Overlap(u64),
    /// The first instruction is in no segment that may be executed.
    Entry(u64),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Malformed => f.write_str("no ELF file of 64 bits"),
            ImageError::Machine(number) => write!(f, "for machine {number}, not x86-64"),
            ImageError::Kind(number) => write!(f, "of type {number}, no executable"),
            ImageError::Interpreter => f.write_str("not static: it names an interpreter"),
            ImageError::NoSegments => f.write_str("nothing to load"),
            ImageError::TooManySegments => write!(f, "more than {MAX_SEGMENTS} segments"),
            ImageError::Content(at) => write!(f, "the segment at {at:#x} has no such content"),
            ImageError::OutOfBounds(at) => write!(f, "the segment at {at:#x} leaves the address space"),
            ImageError::Misaligned(at) => write!(f, "the segment at {at:#x} is misaligned in the file"),
            ImageError::Overlap(at) => write!(f, "the segment at {at:#x} overlaps the one before it"),
            ImageError::Entry(at) => write!(f, "the entry {at:#x} is not executable"),
        }
    }
}

impl core::error::Error for ImageError {}

impl<'a> Image<'a> {
    /// Reads the executable in `file`. The addresses of one that can lie anywhere need only be in bounds
    /// once it is moved; for that it must be no longer than `bounds`.
    ///
    /// # Errors
    ///
    /// [`ImageError`].
    pub fn read(file: &'a [u8], bounds: Bounds) -> Result<Image<'a>, ImageError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ImageError::Malformed)?;
        let header = elf.ehdr;
        if header.class != elf::file::Class::ELF64 {
            return Err(ImageError::Malformed);
        }
        if header.e_machine != EM_X86_64 {
            return Err(ImageError::Machine(header.e_machine));
        }
        let placement = match header.e_type {
            ET_EXEC => Placement::Fixed,
            ET_DYN => Placement::Anywhere,
            other => return Err(ImageError::Kind(other)),
        };
        let bounds = match placement {
            Placement::Fixed => bounds,
            Placement::Anywhere => Bounds { start: 0, end: bounds.end.saturating_sub(bounds.start) },
        };
        let headers = elf.segments().ok_or(ImageError::NoSegments)?;
        let mut image = Image {
            entry: header.e_entry,
            placement,
            headers: ProgramHeaders {
                address: None,
                bytes: PROGRAM_HEADER_BYTES,
                count: headers.len() as u64,
            },
            wants_executable_stack: false,
            segments: ArrayVec::new(),
        };
        for header in headers.iter() {
            match header.p_type {
                PT_INTERP => return Err(ImageError::Interpreter),
                PT_GNU_STACK => image.wants_executable_stack = header.p_flags & PF_X != 0,
                PT_PHDR => image.headers.address = Some(header.p_vaddr),
                PT_LOAD if header.p_memsz > 0 => image.load(&header, file, bounds)?,
                _ => {}
            }
        }
        if image.segments.is_empty() {
            return Err(ImageError::NoSegments);
        }
        if image.headers.address.is_none() {
            image.headers.address = image.address_in_file(header.e_phoff, file);
        }
        let executable = |segment: &Segment<'_>| {
            matches!(segment.access, Access::Execute | Access::WriteExecute)
                && (segment.start..segment.end).contains(&header.e_entry)
        };
        if !image.segments.iter().any(executable) {
            return Err(ImageError::Entry(header.e_entry));
        }
        Ok(image)
    }

    fn load(&mut self, header: &ProgramHeader, file: &'a [u8], bounds: Bounds) -> Result<(), ImageError> {
        let at = header.p_vaddr;
        if header.p_filesz > header.p_memsz {
            return Err(ImageError::Content(at));
        }
        let last = header.p_offset.checked_add(header.p_filesz).ok_or(ImageError::Content(at))?;
        let content = usize::try_from(header.p_offset).ok().zip(usize::try_from(last).ok());
        let content =
            content.and_then(|(first, last)| file.get(first..last)).ok_or(ImageError::Content(at))?;
        if header.p_filesz > 0 && at % PAGE != header.p_offset % PAGE {
            return Err(ImageError::Misaligned(at));
        }
        let start = at / PAGE * PAGE;
        let end = at.checked_add(header.p_memsz).and_then(|end| end.checked_next_multiple_of(PAGE));
        let end = end.filter(|&end| bounds.start <= start && end <= bounds.end);
        let end = end.ok_or(ImageError::OutOfBounds(at))?;
        if self.segments.last().is_some_and(|before| start < before.end) {
            return Err(ImageError::Overlap(at));
        }
        let access =
            match (header.p_flags & PF_R != 0, header.p_flags & PF_W != 0, header.p_flags & PF_X != 0) {
                (_, true, true) => Access::WriteExecute,
                (_, true, false) => Access::Write,
                (_, false, true) => Access::Execute,
                (true, false, false) => Access::Read,
                (false, false, false) => Access::None,
            };
        let segment = Segment { start, end, address: at, content, access };
        self.segments.try_push(segment).map_err(|_| ImageError::TooManySegments)
    }

    /// Where the byte of the file at `offset` is loaded.
    fn address_in_file(&self, offset: u64, file: &[u8]) -> Option<u64> {
        let byte = file.get(usize::try_from(offset).ok()?..)?.as_ptr().addr();
        self.segments.iter().find_map(|segment| {
            let offset = byte.checked_sub(segment.content.as_ptr().addr())?;
            (offset < segment.content.len()).then(|| segment.address + offset as u64)
        })
    }

    /// The pages from the first to the last segment: where they begin and end.
    #[must_use]
    pub fn span(&self) -> (u64, u64) {
        let start = self.segments.first().map_or(0, |segment| segment.start);
        (start, self.segments.last().map_or(0, |segment| segment.end))
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
