//! Repeated string instructions: the CPU traps after each repetition, which would make thousands
//! of stop points of the clearing of one frame.

use libc::{REG_EFL, REG_RCX, REG_RDI, REG_RIP, REG_RSI, greg_t};

/// The direction flag.
const BACKWARDS: greg_t = 1 << 10;

/// What `rep movs` and `rep stos` do, with the length of their code.
struct Repeated {
    copies: bool,
    /// Bytes of one repetition.
    width: usize,
    length: greg_t,
}

/// Decodes `rep [rex.w] movs|stos` of bytes, doublewords and quadwords.
///
/// # Safety
///
/// `code` points to an instruction.
unsafe fn decode(code: *const u8) -> Option<Repeated> {
    // An instruction may end where its page ends: a byte is read only after those before it.
    // SAFETY: by the caller, and a prefix is followed by more.
    let byte = |index: usize| unsafe { code.add(index).read() };
    if byte(0) != 0xf3 {
        return None;
    }
    let wide = byte(1) == 0x48;
    let opcode = byte(if wide { 2 } else { 1 });
    let width = match opcode & 1 {
        0 => 1,
        _ if wide => 8,
        _ => 4,
    };
    matches!(opcode, 0xa4 | 0xa5 | 0xaa | 0xab).then(|| Repeated {
        copies: opcode < 0xaa,
        width,
        length: if wide { 3 } else { 2 },
    })
}

/// Does all repetitions of the instruction that comes next, if it is a repeated string
/// instruction. Returns whether it was one.
///
/// # Safety
///
/// The registers are those of this thread, which is stopped by a trap.
pub(crate) unsafe fn finish(registers: &mut [greg_t; 23]) -> bool {
    // SAFETY: the next instruction is there.
    let Some(found) = (unsafe { decode(registers[REG_RIP as usize] as *const u8) }) else { return false };
    if registers[REG_EFL as usize] & BACKWARDS != 0 {
        return false;
    }
    let bytes = registers[REG_RCX as usize] as usize * found.width;
    let to = registers[REG_RDI as usize] as *mut u8;
    let from = registers[REG_RSI as usize] as *const u8;
    // The accumulator is stored from its low byte on.
    let value = registers[libc::REG_RAX as usize].to_le_bytes();
    for index in 0..bytes {
        // SAFETY: these are the accesses that the thread is about to make, in their order (a copy
        // onto itself repeats what it has copied); volatile, so that no `rep` comes of them.
        unsafe {
            let byte =
                if found.copies { from.add(index).read_volatile() } else { value[index % found.width] };
            to.add(index).write_volatile(byte);
        }
    }
    registers[REG_RDI as usize] += bytes as greg_t;
    if found.copies {
        registers[REG_RSI as usize] += bytes as greg_t;
    }
    registers[REG_RCX as usize] = 0;
    registers[REG_RIP as usize] += found.length;
    true
}
