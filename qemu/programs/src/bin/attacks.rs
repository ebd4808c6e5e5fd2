//! Does in ring 3 what a program may not do; the argument says what. Each must end the program with a signal, or
//! fail, and do the kernel no harm.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod attacks {
    use std::arch::asm;
    use std::hint::black_box;

    /// Where the kernel has its direct map, and its image.
    const KERNEL: [u64; 2] = [0xffff_8000_0000_0000, 0xffff_ffff_8020_0000];
    const NO_ADDRESS: u64 = 0x1234_5678_9abc_def0;
    /// Above all that a program may have, below the kernel's half.
    const LAST_PAGE: u64 = 0x7fff_ffff_f000;
    /// `ret`.
    const RETURN: [u8; 1] = [0xc3];

    fn read(address: u64) {
        // SAFETY: it has no right to: the kernel ends the program.
        unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _, options(nostack)) };
    }

    fn write(address: u64) {
        // SAFETY: as in `read`.
        unsafe { asm!("mov [{0}], {0}", in(reg) address, options(nostack)) };
    }

    fn call(address: u64) {
        // SAFETY: as in `read`.
        unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) };
    }

    #[inline(never)]
    #[allow(unconditional_recursion, reason = "the stack is what is attacked")]
    fn recurse(depth: u64) -> u64 {
        let room = black_box([depth; 64]);
        recurse(depth + 1) + room[3]
    }

    macro_rules! instruction {
        ($text:literal) => {
            // SAFETY: as in `read`.
            || unsafe { asm!($text, out("rax") _, out("rcx") _, out("rdx") _) }
        };
    }

    /// Loads what only a kernel may have, as a signal handler's return.
    fn return_from_no_handler() {
        let mut context = [0_u64; 38];
        context[5 + 15] = black_box(0x7000_0000_0000);
        context[5 + 16] = KERNEL[1];
        // Privileged I/O, and no interrupts.
        context[5 + 17] = 3 << 12;
        // The kernel's segments.
        context[23] = 0x08 | 0x10 << 48;
        // SAFETY: as in `read`.
        unsafe {
            asm!("mov rsp, {}", "mov eax, 15", "syscall", "ud2", in(reg) context.as_ptr(), options(noreturn))
        };
    }

    /// Makes a system call by the last instruction that a program can have.
    fn call_system_at_the_end() {
        let page = LAST_PAGE - 4096;
        // SAFETY: nothing is mapped there but what is mapped here.
        unsafe {
            let at = libc::mmap(
                page as *mut libc::c_void,
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            );
            if at as u64 != page {
                return;
            }
            // `syscall`.
            ((LAST_PAGE - 2) as *mut [u8; 2]).write([0x0f, 0x05]);
            libc::mprotect(at, 4096, libc::PROT_READ | libc::PROT_EXEC);
            asm!("mov eax, 39", "jmp {}", in(reg) LAST_PAGE - 2, options(noreturn));
        }
    }

    fn trap_each_instruction() {
        // SAFETY: as in `read`.
        unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop") };
    }

    pub(super) fn by_name(name: &str) -> Option<fn()> {
        static DATA: [u8; 1] = RETURN;
        let attack: fn() = match name {
            "read-kernel" => || read(KERNEL[0]),
            "read-image" => || read(KERNEL[1]),
            "write-kernel" => || write(KERNEL[0]),
            "write-image" => || write(KERNEL[1]),
            "run-kernel" => || call(KERNEL[0]),
            "run-image" => || call(KERNEL[1]),
            "read-null" => || read(black_box(0)),
            "read-last-page" => || read(LAST_PAGE),
            "read-no-address" => || read(NO_ADDRESS),
            "run-no-address" => || call(NO_ADDRESS),
            "write-text" => || write(write as *const () as u64),
            "run-data" => || call(DATA.as_ptr() as u64),
            "run-stack" => || {
                let code = black_box(RETURN);
                call(code.as_ptr() as u64);
            },
            "run-heap" => || {
                let code = black_box(RETURN.to_vec());
                call(code.as_ptr() as u64);
            },
            "stack-overflow" => || {
                black_box(recurse(0));
            },
            "hlt" => instruction!("hlt"),
            "cli" => instruction!("cli"),
            "in" => instruction!("in al, 0x60"),
            "out" => instruction!("out 0xf4, eax"),
            "rdmsr" => instruction!("mov ecx, 0xc0000101; rdmsr"),
            "wrmsr" => instruction!("mov ecx, 0xc0000101; xor eax, eax; xor edx, edx; wrmsr"),
            "read-cr3" => instruction!("mov rax, cr3"),
            "write-cr3" => instruction!("xor eax, eax; mov cr3, rax"),
            "swapgs" => instruction!("swapgs"),
            "sysret" => instruction!("sysretq"),
            "lidt" => instruction!("lidt [rsp]"),
            "sgdt" => instruction!("sgdt [rsp - 64]"),
            "invlpg" => instruction!("invlpg [rsp]"),
            "clac" => instruction!("clac"),
            "write-gs-base" => instruction!("wrgsbase rax"),
            "far-return" => instruction!("push 8; lea rax, [rip + 2f]; push rax; retfq; 2: nop"),
            "iret" => instruction!("push 0x10; push rsp; pushfq; push 8; push 0; iretq"),
            "int-128" => instruction!("int 0x80"),
            "int-shootdown" => instruction!("int 0xf1"),
            "int-page-fault" => instruction!("int 14"),
            "int-2" => instruction!("int 2"),
            "int3" => instruction!("int3"),
            "ud2" => instruction!("ud2"),
            "divide" => instruction!("xor edx, edx; xor ecx, ecx; mov eax, 1; div ecx"),
            "trap-flag" => trap_each_instruction,
            "return-from-no-handler" => return_from_no_handler,
            "call-at-the-end" => call_system_at_the_end,
            _ => return None,
        };
        Some(attack)
    }
}

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if let Some(attack) = std::env::args().nth(1).and_then(|name| attacks::by_name(&name)) {
        // SAFETY: the standard library's handler would say more about some faults.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        }
        attack();
        println!("it was done");
        return ExitCode::from(99);
    }
    eprintln!("no such attack");
    ExitCode::from(2)
}
