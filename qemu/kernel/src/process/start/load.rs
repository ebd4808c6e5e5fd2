//! Putting a program into an address space: its segments, its heap and its first stack.

extern crate alloc;

use alloc::vec::Vec;

use linux_raw_sys::auxvec;
use topomem::Access;
use topomem::region::Kind;
use topomem_exec::{Access as SegmentAccess, File, Image, InitialStack, PAGE, Placement, StackError, Text};

use crate::arch::features;
use crate::arch::random::random;
use crate::arch::user::USER_END;
use crate::process::memory::{BOUNDS, request_at};
use crate::process::{Memory, OutOfMemory, StartError};
use crate::syscall::Errno;

/// Bytes that the first thread's stack may grow to: what a space has it by default.
pub(crate) const STACK: u64 = 8 << 20;
/// Bytes that it has from the first.
const FIRST_STACK: u64 = 256 << 10;
/// Where programs that may lie anywhere begin, and by how many pages that is shifted at random.
const ANYWHERE: u64 = 0x5555_5555_4000;
const SHIFT_PAGES: u64 = 1 << 28;
/// By how many pages a break is shifted at random, and a stack.
const BREAK_SHIFT_PAGES: u64 = 1 << 13;
const STACK_SHIFT_PAGES: u64 = 1 << 22;
/// Clock ticks a second, in units that nothing here counts in.
const CLOCK_TICKS: u64 = 100;

/// What a program is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    /// Its arguments, its name first.
    pub arguments: &'a [Text<'a>],
    /// Its environment.
    pub environment: &'a [Text<'a>],
}

/// A program that is ready to run.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Its memory.
    pub memory: Memory,
    /// Where it begins.
    pub entry: u64,
    /// Its stack pointer.
    pub stack: u64,
}

/// Loads a program into memory of its own.
///
/// # Errors
///
/// [`StartError`]; nothing is left of it.
pub(crate) async fn load(program: File<'static>, words: Words<'_>) -> Result<Loaded, StartError> {
    let image = Image::read(program.content, BOUNDS).map_err(StartError::Image)?;
    let memory = Memory::new(program.name)?;
    match fill(&memory, &image, words).await {
        Ok((entry, stack)) => Ok(Loaded { memory, entry, stack }),
        Err(error) => {
            memory.leave();
            memory.close().await;
            Err(error)
        }
    }
}

/// Puts all into `memory` that a program begins with. Returns where it begins, and its stack pointer.
async fn fill(memory: &Memory, image: &Image<'_>, words: Words<'_>) -> Result<(u64, u64), StartError> {
    let bias = add_segments(memory, image).await?;
    let entry = image.entry.wrapping_add(bias);
    let stack = set_up_stack(memory, image, bias, words).await?;
    Ok((entry, stack))
}

/// Puts a program's segments where they belong, and says where its heap begins. Returns by how many bytes its
/// addresses are shifted.
async fn add_segments(memory: &Memory, image: &Image<'_>) -> Result<u64, StartError> {
    let (start, end) = image.span();
    let bias = match image.placement {
        Placement::Fixed => 0,
        Placement::Anywhere => (ANYWHERE + random() % SHIFT_PAGES * PAGE).wrapping_sub(start),
    };
    for segment in &image.segments {
        let (at, bytes) = (segment.start.wrapping_add(bias), segment.end - segment.start);
        let (kind, access) = match segment.access {
            SegmentAccess::None => (Kind::Data, Access::NONE),
            SegmentAccess::Read => (Kind::Data, Access::READ),
            SegmentAccess::Write => (Kind::Data, Access::WRITE),
            SegmentAccess::Execute => (Kind::Code, Access::EXECUTE),
            // Nothing here may be both.
            SegmentAccess::WriteExecute => return Err(StartError::Memory(Errno::ACCESS)),
        };
        memory.map(&request_at(at, bytes, kind, Access::WRITE)?)?;
        memory.write(segment.address.wrapping_add(bias), segment.content).await?;
        if access != Access::WRITE
            && let Some(unmapping) = memory.protect(at, bytes, access)?
        {
            unmapping.await;
        }
    }
    memory.start_heap(end.wrapping_add(bias) + random() % BREAK_SHIFT_PAGES * PAGE);
    Ok(bias)
}

/// Maps the first thread's stack, and writes there what the program is given. Returns the stack pointer.
async fn set_up_stack(
    memory: &Memory,
    image: &Image<'_>,
    bias: u64,
    words: Words<'_>,
) -> Result<u64, StartError> {
    let top = USER_END - (1 + random() % STACK_SHIFT_PAGES) * PAGE;
    // It grows by itself.
    memory.map(&request_at(top - FIRST_STACK, FIRST_STACK, Kind::Stack, Access::WRITE)?)?;
    let headers = image.headers;
    let auxiliary = [
        (auxvec::AT_PHDR, headers.address.map_or(0, |address| address.wrapping_add(bias))),
        (auxvec::AT_PHENT, headers.bytes),
        (auxvec::AT_PHNUM, headers.count),
        (auxvec::AT_PAGESZ, PAGE),
        (auxvec::AT_BASE, 0),
        (auxvec::AT_FLAGS, 0),
        (auxvec::AT_ENTRY, image.entry.wrapping_add(bias)),
        (auxvec::AT_UID, 0),
        (auxvec::AT_EUID, 0),
        (auxvec::AT_GID, 0),
        (auxvec::AT_EGID, 0),
        (auxvec::AT_SECURE, 0),
        (auxvec::AT_HWCAP, u64::from(features::hwcap())),
        (auxvec::AT_CLKTCK, CLOCK_TICKS),
    ]
    .map(|(key, value)| (u64::from(key), value));
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&random().to_le_bytes());
    seed[8..].copy_from_slice(&random().to_le_bytes());
    let Words { arguments, environment } = words;
    let stack = InitialStack::lay_out(top, arguments, environment, &auxiliary, seed);
    let stack = stack.map_err(StartError::Stack)?;
    if stack.bytes.len() as u64 > FIRST_STACK {
        return Err(StartError::Stack(StackError::TooLong));
    }
    memory.write(stack.pointer, &stack.bytes).await?;
    Ok(stack.pointer)
}

/// Returns texts as [`Words`] has them.
///
/// # Errors
///
/// [`OutOfMemory`].
pub(crate) fn borrowed<T: AsRef<[u8]>>(texts: &[T]) -> Result<Vec<Text<'_>>, OutOfMemory> {
    let mut borrowed = Vec::new();
    borrowed.try_reserve_exact(texts.len()).map_err(|_| OutOfMemory)?;
    borrowed.extend(texts.iter().map(AsRef::as_ref));
    Ok(borrowed)
}
