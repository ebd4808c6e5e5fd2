//! Registers, flags and the red zone, whatever interrupts.

use std::arch::asm;
use std::thread;
use std::time::{Duration, Instant};

use topomem_programs::ensure;

use super::{handle, system_call, trample};

/// Registers keep their values, whatever interrupts, and over system calls.
pub(super) fn registers() -> Result<(), u8> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(60) {
        for call in [0_u64, 39, 24] {
            let wrong: u64;
            // SAFETY: all registers that it changes are named or restored.
            unsafe {
                asm!(
                    "push rbx", "push rbp",
                    "mov r9d, 20000",
                    "mov rbx, 0x1111111111111111", "mov rdx, 0x2222222222222222",
                    "mov rsi, 0x3333333333333333", "mov rdi, 0x4444444444444444",
                    "mov rbp, 0x5555555555555555", "mov r8, 0x6666666666666666",
                    "mov r10, 0x7777777777777777", "mov r12, 0x0888888888888888",
                    "mov r13, 0x0999999999999999", "mov r14, 0x0aaaaaaaaaaaaaaa",
                    "mov r15, rsp",
                    "2:",
                    "test {call:e}, {call:e}", "jz 3f",
                    "mov eax, {call:e}", "syscall", "sub r9d, 199",
                    "3:",
                    "mov rax, 0x1111111111111111", "cmp rax, rbx", "jne 4f",
                    "mov rax, 0x2222222222222222", "cmp rax, rdx", "jne 4f",
                    "mov rax, 0x3333333333333333", "cmp rax, rsi", "jne 4f",
                    "mov rax, 0x4444444444444444", "cmp rax, rdi", "jne 4f",
                    "mov rax, 0x5555555555555555", "cmp rax, rbp", "jne 4f",
                    "mov rax, 0x6666666666666666", "cmp rax, r8", "jne 4f",
                    "mov rax, 0x7777777777777777", "cmp rax, r10", "jne 4f",
                    "mov rax, 0x0888888888888888", "cmp rax, r12", "jne 4f",
                    "mov rax, 0x0999999999999999", "cmp rax, r13", "jne 4f",
                    "mov rax, 0x0aaaaaaaaaaaaaaa", "cmp rax, r14", "jne 4f",
                    "cmp r15, rsp", "jne 4f",
                    "dec r9d", "jg 2b",
                    "xor eax, eax", "jmp 5f",
                    "4:", "mov eax, 1",
                    "5:", "pop rbp", "pop rbx",
                    call = in(reg) call,
                    out("rax") wrong,
                    out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
                    out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                );
            }
            ensure(wrong == 0, 1)?;
        }
    }
    Ok(())
}

/// So do the vector registers, the rounding mode among them, with several threads on a CPU.
pub(super) fn vectors() -> Result<(), u8> {
    let threads: Vec<_> = (1..=3_u64)
        .map(|number| {
            thread::spawn(move || {
                let start = Instant::now();
                let mode = 0x1f80 | (number as u32 & 3) << 13;
                while start.elapsed() < Duration::from_millis(60) {
                    let (low, high, found): (u64, u64, u32);
                    let mut kept = mode;
                    // SAFETY: it changes registers that are named, and the rounding mode, which it restores.
                    unsafe {
                        asm!(
                            "ldmxcsr [{mode}]",
                            "movq xmm3, {number}", "movq xmm15, {number}",
                            "mov ecx, 30000", "2:", "dec ecx", "jnz 2b",
                            "mov eax, 24", "syscall",
                            "movq {low}, xmm3", "movq {high}, xmm15",
                            "stmxcsr [{mode}]", "mov {found:e}, [{mode}]",
                            "mov dword ptr [{mode}], 0x1f80", "ldmxcsr [{mode}]",
                            mode = in(reg) &raw mut kept,
                            number = in(reg) number,
                            low = out(reg) low, high = out(reg) high, found = out(reg) found,
                            out("xmm3") _, out("xmm15") _, out("rax") _, out("rcx") _, out("r11") _,
                        );
                    }
                    if (low, high, found) != (number, number, mode) {
                        return false;
                    }
                }
                true
            })
        })
        .collect();
    let right = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|&right| right).count();
    ensure(right == 3, 1)
}

/// Flags that a program sets before a system call or a fault do the kernel no harm, and come back.
pub(super) fn flags() -> Result<(), u8> {
    // Direction, alignment check, nested task, identification.
    for flags in [1_u64 << 10, 1 << 18, 1 << 14, 1 << 21] {
        for _ in 0..1000 {
            let found: u64;
            // SAFETY: the flags are restored.
            unsafe {
                asm!(
                    "pushfq", "pushfq", "or [rsp], {flags}", "popfq",
                    "mov eax, 39", "syscall",
                    "pushfq", "pop {found}", "popfq",
                    flags = in(reg) flags, found = out(reg) found,
                    out("rax") _, out("rcx") _, out("r11") _,
                );
            }
            // Nobody needs the flag of nested tasks.
            ensure(flags == 1 << 14 || found & flags != 0, 1)?;
        }
    }
    Ok(())
}

/// A handler leaves alone what lies below the stack pointer.
pub(super) fn red_zone() -> Result<(), u8> {
    handle(libc::SIGUSR1, trample as *const (), 0);
    let (process, thread) = (std::process::id(), system_call(libc::SYS_gettid, [0; 6]));
    for number in 0..100_u64 {
        let (first, last): (u64, u64);
        // SAFETY: it writes no further below its stack pointer than a function without calls may.
        unsafe {
            asm!(
                "mov [rsp - 8], {number}", "mov [rsp - 128], {number}",
                "mov eax, 234", "syscall",
                "mov {first}, [rsp - 8]", "mov {last}, [rsp - 128]",
                number = in(reg) number, first = out(reg) first, last = out(reg) last,
                in("rdi") u64::from(process), in("rsi") thread, in("rdx") u64::from(libc::SIGUSR1 as u32),
                out("rax") _, out("rcx") _, out("r11") _,
            );
        }
        ensure(first == number && last == number, 1)?;
    }
    Ok(())
}
