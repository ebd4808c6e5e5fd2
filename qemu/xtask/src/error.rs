//! What can go wrong before, around and after a run.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::bench::linux::LinuxError;
use crate::firmware::FirmwareError;
use crate::topology::{SpecError, TopologyFileError};

/// Why a command could not do its work. A run that found failures is not one of these.
#[derive(Debug)]
pub(crate) enum Error {
    /// The machine can't be as described.
    Spec(SpecError),
    /// The topology file can't be used.
    TopologyFile(TopologyFileError),
    /// Something is not installed, and can't be installed from here.
    Missing { what: &'static str, because: String, commands: Vec<String> },
    /// The disk has too little room for what is to be built. In bytes.
    DiskFull { folder: PathBuf, free: u64, needed: u64 },
    /// A program could not be started.
    Start { program: String, error: std::io::Error },
    /// A program ended badly.
    Program { command: String, status: ExitStatus },
    /// A machine's firmware tables can't be read.
    Firmware(FirmwareError),
    /// A file or folder could not be read or written.
    File { path: PathBuf, error: std::io::Error },
    /// Reading from or waiting for a program failed.
    Pipe { program: String, error: std::io::Error },
    /// The kernel's debug information can't be read.
    DebugInfo { path: PathBuf, reason: String },
    /// The report could not be turned into JSON.
    Json(serde_json::Error),
    /// The kernel's dump of the firmware tables is not whole.
    TableDump { signature: String, expected: usize, offset: usize },
    /// Callgrind counted nothing: the function is not there under this name.
    NotCounted { what: &'static str },
    /// A file of limits can't be used.
    Limits { file: &'static str, error: Box<toml::de::Error> },
    /// A plot could not be drawn.
    Plot { path: PathBuf, reason: String },
    /// Linux could not be measured.
    Linux(LinuxError),
    /// A step needs what an earlier step could not build.
    NotBuilt(&'static str),
    /// An option that the simulation can't follow.
    OnlyUnderQemu(&'static str),
    /// There is no such scenario.
    NoSuchScenario { name: String, scenarios: Vec<&'static str> },
    /// No test step has a name that contains one of the filters.
    NoSuchStep { filters: Vec<String>, steps: Vec<String> },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec(error) => write!(f, "this machine can't be: {error}"),
            Self::TopologyFile(error) => write!(f, "{error}"),
            Self::Missing { what, because, commands } => {
                write!(f, "{what} is missing: {because}. Install it with:")?;
                commands.iter().try_for_each(|command| write!(f, "\n    {command}"))
            }
            Self::DiskFull { folder, free, needed } => write!(
                f,
                "{} has {} MiB free, and {} MiB are needed",
                folder.display(),
                free >> 20,
                needed >> 20
            ),
            Self::Start { program, error } => write!(f, "can't start {program}: {error}"),
            Self::Program { command, status } => write!(f, "failed with {status}: {command}"),
            Self::Firmware(error) => write!(f, "{error}"),
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Pipe { program, error } => write!(f, "lost {program}: {error}"),
            Self::DebugInfo { path, reason } => {
                write!(f, "{}: no debug information: {reason}", path.display())
            }
            Self::Json(error) => write!(f, "can't write the report: {error}"),
            Self::TableDump { signature, expected, offset } => {
                write!(f, "the dump of {signature} goes on at {offset}, not at {expected}")
            }
            Self::NotCounted { what } => write!(f, "callgrind found no function {what}"),
            Self::Limits { file, error } => write!(f, "{file}: {error}"),
            Self::Plot { path, reason } => write!(f, "{}: no plot: {reason}", path.display()),
            Self::Linux(error) => write!(f, "{error}"),
            Self::NotBuilt(what) => write!(f, "{what} could not be built: see above"),
            Self::OnlyUnderQemu(option) => write!(f, "{option} works only under QEMU: cargo xtask qemu"),
            Self::NoSuchScenario { name, scenarios } => {
                write!(f, "no scenario is called {name}; there are: {}", scenarios.join(", "))
            }
            Self::NoSuchStep { filters, steps } => {
                write!(f, "no test step matches {}; there are: {}", filters.join(", "), steps.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Self {
        Self::Spec(error)
    }
}

impl Error {
    /// For `map_err` where a file is at fault.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, error }
    }
}
