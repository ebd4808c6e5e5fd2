//! Room on the disk for what cargo builds.

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::workspace;

const GIB: u64 = 1 << 30;

/// What `.ci/run` writes below cargo's target folder on a fresh clone, and room for what it downloads and for the
/// files of running machines.
const ALL_TESTS: u64 = 8 * GIB;

/// What one step of the tests may write.
const ONE_STEP: u64 = GIB;

/// Makes sure that a run of all tests finds room, less what earlier runs have built.
///
/// # Errors
///
/// [`Error::DiskFull`] if there is too little room.
pub(super) fn ensure_room_for_all_tests() -> Result<(), Error> {
    let folder = workspace::target_folder();
    ensure_room(&folder, ALL_TESTS.saturating_sub(size(&folder)))
}

/// Makes sure that a step finds room. A full disk is said once, and not as a failure of each step that follows.
///
/// # Errors
///
/// [`Error::DiskFull`] if there is too little room.
pub(crate) fn ensure_room_for_a_step() -> Result<(), Error> {
    ensure_room(&workspace::target_folder(), ONE_STEP)
}

fn ensure_room(folder: &Path, needed: u64) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    let disk = rustix::fs::statvfs(folder).map_err(|errno| Error::file(folder)(errno.into()))?;
    let free = disk.f_frsize.saturating_mul(disk.f_bavail);
    if free < needed {
        return Err(Error::DiskFull { folder: folder.to_owned(), free, needed });
    }
    Ok(())
}

/// Bytes of the files below `folder`. What can't be read counts as nothing.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_too_little_room_is_named() {
        let folder = workspace::target_folder();
        assert!(ensure_room(&folder, 0).is_ok());
        match ensure_room(&folder, u64::MAX) {
            Err(Error::DiskFull { folder: named, free, needed: u64::MAX }) => {
                assert_eq!(named, folder);
                assert!(free < u64::MAX);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_built_already_needs_no_room() {
        assert!(size(&workspace::root().join("qemu/xtask/src")) > 100_000);
        assert_eq!(size(Path::new("/nonexistent")), 0);
    }
}
