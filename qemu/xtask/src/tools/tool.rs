//! The tools: what they are for, whether they are there, and how to get them.

use std::path::{Path, PathBuf};

use crate::bench::linux;
use crate::machines::kernel;
use crate::qemu;
use crate::shell;

/// The programs of [`Tool::Preloaded`].
const PRELOADED: [&str; 6] = ["gcc", "python3", "sqlite3", "redis-server", "redis-benchmark", "redis-cli"];

/// Something that has to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    KernelTarget,
    /// For static programs in a Linux guest.
    LinuxTarget,
    Qemu,
    /// A QEMU whose TCG has x2APIC.
    NewerQemu,
    Rustfmt,
    Clippy,
    /// Miri, with the nightly toolchain and the library sources that it needs.
    Miri,
    Valgrind,
    /// For C and C++, with make.
    Compilers,
    /// Programs that run on the heap.
    Preloaded,
}

impl Tool {
    pub(crate) const ALL: [Self; 9] = [
        Self::KernelTarget,
        Self::LinuxTarget,
        Self::Qemu,
        Self::Rustfmt,
        Self::Clippy,
        Self::Miri,
        Self::Valgrind,
        Self::Compilers,
        Self::Preloaded,
    ];

    /// What some tests do without: they are skipped where it can't be had.
    pub(crate) const OPTIONAL: [Self; 1] = [Self::NewerQemu];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KernelTarget => "the target x86_64-unknown-none",
            Self::LinuxTarget => "the target x86_64-unknown-linux-musl",
            Self::Qemu => "QEMU for x86-64",
            Self::NewerQemu => "QEMU 9 or newer",
            Self::Rustfmt => "rustfmt",
            Self::Clippy => "clippy",
            Self::Miri => "Miri on the nightly toolchain",
            Self::Valgrind => "Valgrind",
            Self::Compilers => "compilers for C and C++, and make",
            Self::Preloaded => "gcc, Python, SQLite and Redis",
        }
    }

    /// What works only with it.
    pub(crate) fn purpose(self) -> &'static str {
        match self {
            Self::KernelTarget => "builds the reference kernel",
            Self::LinuxTarget => {
                "builds the programs of the scenario processes, and what measures Linux for comparisons"
            }
            Self::Qemu => "boots the reference kernel (cargo xtask sim does without)",
            Self::NewerQemu => "emulates x2APIC, and so more than 255 CPUs",
            Self::Rustfmt => "formats the sources: .ci/run",
            Self::Clippy => "lints the sources: .ci/run",
            Self::Miri => "looks for undefined behaviour: cargo xtask test",
            Self::Valgrind => "counts instructions: cargo xtask bench frames and heap, cargo xtask test",
            Self::Compilers => "build the peers of cargo xtask bench heap",
            Self::Preloaded => "run on the heap: cargo xtask test",
        }
    }

    /// Where it is or what version it has, when it is there.
    pub(crate) fn found(self) -> Option<String> {
        match self {
            Self::KernelTarget => target(kernel::TARGET),
            Self::LinuxTarget => target(linux::TARGET),
            Self::Qemu => qemu::version_line(),
            Self::NewerQemu => qemu::newer_line(),
            Self::Valgrind => shell::output("valgrind", &["--version"]),
            Self::Compilers => {
                shell::output("make", &["--version"])?;
                shell::output("cc", &["-dumpversion"])?;
                shell::output("c++", &["-dumpversion"])
            }
            Self::Preloaded => {
                let found: Option<Vec<PathBuf>> = PRELOADED.into_iter().map(shell::find).collect();
                found.map(|found| {
                    found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
                })
            }
            Self::Rustfmt => shell::output("cargo", &["fmt", "--version"]),
            Self::Clippy => shell::output("cargo", &["clippy", "--version"]),
            Self::Miri => {
                existing(
                    sysroot(&["rustup", "run", "nightly", "rustc"])?.join("lib/rustlib/src/rust/library"),
                )?;
                shell::output("rustup", &["run", "nightly", "cargo", "miri", "--version"])
            }
        }
    }

    /// The commands that install it. There are none for what this program unpacks by itself.
    pub(crate) fn commands(self) -> Vec<Vec<&'static str>> {
        match self {
            Self::KernelTarget => vec![vec!["rustup", "target", "add", kernel::TARGET]],
            Self::LinuxTarget => vec![vec!["rustup", "target", "add", linux::TARGET]],
            Self::Qemu => vec![
                vec!["apt-get", "update"],
                vec!["apt-get", "install", "--yes", "--no-install-recommends", "qemu-system-x86"],
            ],
            Self::NewerQemu => Vec::new(),
            Self::Valgrind => vec![
                vec!["apt-get", "update"],
                vec!["apt-get", "install", "--yes", "--no-install-recommends", "valgrind"],
            ],
            Self::Compilers => vec![
                vec!["apt-get", "update"],
                vec![
                    "apt-get",
                    "install",
                    "--yes",
                    "--no-install-recommends",
                    "g++",
                    "gcc",
                    "make",
                    "libc6-dev",
                ],
            ],
            Self::Preloaded => vec![
                vec!["apt-get", "update"],
                vec![
                    "apt-get",
                    "install",
                    "--yes",
                    "--no-install-recommends",
                    "gcc",
                    "libc6-dev",
                    "python3",
                    "sqlite3",
                    "redis-server",
                    "redis-tools",
                ],
            ],
            Self::Rustfmt => vec![vec!["rustup", "component", "add", "rustfmt"]],
            Self::Clippy => vec![vec!["rustup", "component", "add", "clippy"]],
            Self::Miri if sysroot(&["rustup", "run", "nightly", "rustc"]).is_some() => {
                vec![vec!["rustup", "component", "add", "--toolchain", "nightly", "miri", "rust-src"]]
            }
            Self::Miri => vec![vec![
                "rustup",
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "miri,rust-src",
            ]],
        }
    }

    /// The same for people, on whatever system this is.
    pub(crate) fn instructions(self) -> Vec<String> {
        let commands = self.commands().into_iter().map(|words| words.join(" "));
        match self {
            Self::Qemu if !is_debian() => {
                vec![format!("(your system's package manager; {} must be in the PATH)", qemu::PROGRAM)]
            }
            Self::NewerQemu => vec![
                "cargo xtask prepare    (on Debian: from its backports, unpacked below cargo's folder)"
                    .to_owned(),
                format!("(or a system's {} of version 9 or newer in the PATH)", qemu::PROGRAM),
            ],
            Self::Valgrind if !is_debian() => {
                vec!["(your system's package manager; valgrind must be in the PATH)".to_owned()]
            }
            Self::Compilers if !is_debian() => {
                vec!["(your system's package manager; cc, c++ and make must be in the PATH)".to_owned()]
            }
            Self::Preloaded if !is_debian() => {
                vec![format!("(your system's package manager: {})", PRELOADED.join(", "))]
            }
            Self::Qemu | Self::Valgrind | Self::Compilers | Self::Preloaded => {
                commands.map(|command| format!("sudo {command}")).collect()
            }
            _ => commands.collect(),
        }
    }

    /// Why it can't be installed from here, if it can't.
    pub(crate) fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::NewerQemu if !is_debian() => Some("this is neither Debian nor Ubuntu"),
            Self::NewerQemu => None,
            Self::Qemu | Self::Valgrind | Self::Compilers | Self::Preloaded if !is_debian() => {
                Some("this is neither Debian nor Ubuntu")
            }
            Self::Qemu | Self::Valgrind | Self::Compilers | Self::Preloaded if !is_root() => {
                Some("installing packages needs root")
            }
            Self::Qemu | Self::Valgrind | Self::Compilers | Self::Preloaded => None,
            _ if shell::find("rustup").is_none() => Some("there is no rustup (https://rustup.rs)"),
            _ => None,
        }
    }
}

fn sysroot(rustc: &[&str]) -> Option<PathBuf> {
    let (program, arguments) = rustc.split_first()?;
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--print", "sysroot"]).collect();
    Some(PathBuf::from(shell::output(program, &arguments)?))
}

/// Where the library for a target is.
fn target(name: &str) -> Option<String> {
    existing(sysroot(&["rustc"])?.join("lib/rustlib").join(name))
}

fn existing(path: PathBuf) -> Option<String> {
    path.exists().then(|| path.display().to_string())
}

/// Debian, or one of its descendants.
pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && shell::find("apt-get").is_some()
}

pub(crate) fn is_root() -> bool {
    shell::output("id", &["-u"]).as_deref() == Some("0")
}
