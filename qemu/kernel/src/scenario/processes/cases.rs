//! What programs are run, and how they must end.

use crate::process::{Ending, Signal};

/// One program.
#[derive(Debug)]
pub(super) struct Case {
    /// Its arguments, its name in the RAM disk first.
    pub arguments: &'static [&'static str],
    /// How it must end.
    pub ending: Ending,
    /// What it must write.
    pub output: Output,
}

/// What a program must write.
#[derive(Debug)]
pub(super) enum Output {
    /// This text.
    Text(&'static str),
    /// What is in this file of the RAM disk.
    File(&'static str),
}

/// A program that ends by itself.
const fn exits(arguments: &'static [&'static str], output: &'static str) -> Case {
    Case { arguments, ending: Ending::Exited(0), output: Output::Text(output) }
}

/// A program that writes what the host's run of it wrote: the runner has put that into the RAM disk.
const fn agrees(arguments: &'static [&'static str], file: &'static str) -> Case {
    Case { arguments, ending: Ending::Exited(0), output: Output::File(file) }
}

/// A check that must hold.
const fn holds(arguments: &'static [&'static str]) -> Case {
    exits(arguments, "")
}

/// An attack that must be ended by `signal`.
const fn killed(arguments: &'static [&'static str], signal: Signal) -> Case {
    Case { arguments, ending: Ending::Killed(signal), output: Output::Text("") }
}

/// Ordinary programs, for each CPU.
pub(super) const PROGRAMS: &[Case] = &[
    exits(&["plain", "4"], "4 threads\nsum 31996000\nwords 327500\nin turn 40\nslept true\ndeep 1000\n"),
    holds(&["checks", "registers"]),
    holds(&["checks", "vectors"]),
    holds(&["checks", "flags"]),
    holds(&["checks", "red-zone"]),
    holds(&["checks", "faults"]),
    holds(&["checks", "alternate-stack"]),
    holds(&["checks", "bad-pointers"]),
    holds(&["checks", "every-cpu"]),
    holds(&["checks", "endless"]),
    holds(&["checks", "memory"]),
    holds(&["checks", "fork"]),
    holds(&["huge", "asked-for"]),
    holds(&["huge", "parts"]),
    holds(&["huge", "copies"]),
    holds(&["huge", "collapse"]),
    holds(&["huge", "settings"]),
    holds(&["checks", "restart"]),
    holds(&["checks", "locks"]),
    holds(&["sharing", "names"]),
    holds(&["sharing", "memory"]),
    holds(&["sharing", "counters"]),
    holds(&["sharing", "futex"]),
    holds(&["sharing", "isolation"]),
    holds(&["sharing", "private-file"]),
    holds(&["sharing", "file-and-mapping"]),
    holds(&["sharing", "read-only"]),
    holds(&["sharing", "named-file"]),
    holds(&["sharing", "disk-file"]),
    holds(&["sharing", "beyond-end"]),
    holds(&["sharing", "cut-by-another"]),
    holds(&["sharing", "remove"]),
    holds(&["sharing", "resident"]),
    holds(&["sharing", "relocate"]),
    holds(&["sharing", "waits"]),
    holds(&["sharing", "write-and-run"]),
    holds(&["placement", "policies"]),
    holds(&["placement", "moves"]),
    holds(&["placement", "in-use"]),
    holds(&["children", "commands"]),
    holds(&["children", "descriptors"]),
    holds(&["children", "handlers"]),
    holds(&["children", "threads"]),
    holds(&["children", "failures"]),
    holds(&["children", "borrowed"]),
    holds(&["children", "pipes"]),
    holds(&["children", "polls"]),
    holds(&["children", "own-maps"]),
    holds(&["children", "machine"]),
    // It was not written for this kernel. The runner has the same arguments.
    agrees(&["b3sum", "numbers", "plain", "b3sum"], "b3sum.mapped"),
    agrees(&["b3sum", "--no-mmap", "--length", "64", "plain", "numbers"], "b3sum.read"),
];

/// Random logs of memory calls, which are compared with a model: others on each CPU.
pub(super) const LOGS: &Case = &exits(&["posix", "logs", "4"], "4 logs agree\n");

/// Attacks on what keeps programs apart, for each CPU.
pub(super) const ISOLATION: &[Case] =
    &[holds(&["isolation", "fork"]), holds(&["isolation", "exec"]), holds(&["isolation", "exit"])];

/// What BusyBox does, for each CPU, if the RAM disk has it: a shell that forks, has its children run other programs,
/// and puts pipes between them.
pub(super) const SHELL: &[Case] = &[
    // The runner has the same arguments.
    agrees(&["busybox", "sha256sum", "plain", "numbers", "b3sum"], "busybox.sha256"),
    exits(&["busybox", "awk", "{ sum += $1 } END { print NR, sum }", "numbers"], "2000 2001000\n"),
    exits(
        &[
            "busybox",
            "sh",
            "-c",
            "/busybox seq 500 | /busybox sort -rn | /busybox head -n 3 | /busybox tr '\n' ' '",
        ],
        "500 499 498 ",
    ),
    exits(
        &[
            "busybox",
            "sh",
            "-c",
            "x=$(/busybox echo word | /busybox tr a-z A-Z); (echo in $x); false || echo $?",
        ],
        "in WORD\n1\n",
    ),
    exits(&["busybox", "sh", "-c", "/busybox yes | /busybox head -n 2"], "y\ny\n"),
    exits(
        &[
            "busybox",
            "sh",
            "-c",
            "/busybox sleep 0.02 & /busybox sleep 0.01 & wait; exec /busybox echo waited",
        ],
        "waited\n",
    ),
    exits(
        &[
            "busybox",
            "sh",
            "-c",
            "/busybox grep -c -e stack -e heap /proc/self/maps; /busybox true 2>/dev/null",
        ],
        "2\n",
    ),
    Case {
        arguments: &[
            "busybox",
            "sh",
            "-c",
            "/busybox cat /proc/self/exe | /busybox cmp - /busybox && exit 7",
        ],
        ending: Ending::Exited(7),
        output: Output::Text(""),
    },
    killed(&["busybox", "sh", "-c", "kill -9 $$"], Signal::KILL),
];

/// Attacks and further checks, each for one CPU. The unit of floating-point exceptions and INT1 are left out: QEMU's TCG raises
/// neither.
pub(super) const ATTACKS: &[Case] = &[
    killed(&["attacks", "read-kernel"], Signal::SEGV),
    killed(&["attacks", "read-image"], Signal::SEGV),
    killed(&["attacks", "write-kernel"], Signal::SEGV),
    killed(&["attacks", "write-image"], Signal::SEGV),
    killed(&["attacks", "run-kernel"], Signal::SEGV),
    killed(&["attacks", "run-image"], Signal::SEGV),
    killed(&["attacks", "read-null"], Signal::SEGV),
    killed(&["attacks", "read-last-page"], Signal::SEGV),
    killed(&["attacks", "read-no-address"], Signal::SEGV),
    killed(&["attacks", "run-no-address"], Signal::SEGV),
    killed(&["attacks", "write-text"], Signal::SEGV),
    killed(&["attacks", "run-data"], Signal::SEGV),
    killed(&["attacks", "run-stack"], Signal::SEGV),
    killed(&["attacks", "run-heap"], Signal::SEGV),
    killed(&["attacks", "stack-overflow"], Signal::SEGV),
    killed(&["attacks", "hlt"], Signal::SEGV),
    killed(&["attacks", "cli"], Signal::SEGV),
    killed(&["attacks", "in"], Signal::SEGV),
    killed(&["attacks", "out"], Signal::SEGV),
    killed(&["attacks", "rdmsr"], Signal::SEGV),
    killed(&["attacks", "wrmsr"], Signal::SEGV),
    killed(&["attacks", "read-cr3"], Signal::SEGV),
    killed(&["attacks", "write-cr3"], Signal::SEGV),
    killed(&["attacks", "swapgs"], Signal::SEGV),
    killed(&["attacks", "lidt"], Signal::SEGV),
    killed(&["attacks", "sgdt"], Signal::SEGV),
    killed(&["attacks", "invlpg"], Signal::SEGV),
    killed(&["attacks", "far-return"], Signal::SEGV),
    killed(&["attacks", "iret"], Signal::SEGV),
    killed(&["attacks", "int-128"], Signal::SEGV),
    killed(&["attacks", "int-shootdown"], Signal::SEGV),
    killed(&["attacks", "int-page-fault"], Signal::SEGV),
    killed(&["attacks", "int-2"], Signal::SEGV),
    killed(&["attacks", "return-from-no-handler"], Signal::SEGV),
    killed(&["attacks", "call-at-the-end"], Signal::SEGV),
    killed(&["attacks", "sysret"], Signal::SEGV),
    killed(&["attacks", "clac"], Signal::ILL),
    killed(&["attacks", "write-gs-base"], Signal::ILL),
    killed(&["attacks", "int3"], Signal::TRAP),
    killed(&["attacks", "ud2"], Signal::ILL),
    killed(&["attacks", "divide"], Signal::FPE),
    killed(&["attacks", "trap-flag"], Signal::TRAP),
    exits(&["posix", "cases"], "all cases are answered as known\n"),
    exits(&["isolation", "spread"], "64 programs, random bits: program 28 break 13 stack 22 mappings 28\n"),
];
