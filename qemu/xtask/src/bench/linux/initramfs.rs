//! The guest's initial RAM file system: one program, and what the kernel needs to start it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{self, Builder, ModeFileType};

use crate::error::Error;

/// The console's device number.
const CONSOLE: (u32, u32) = (5, 1);

/// Writes a file system whose first process is `program`: where it is.
pub(super) fn write(program: &Path, folder: &Path) -> Result<PathBuf, Error> {
    let bytes = std::fs::read(program).map_err(Error::file(program))?;
    let path = folder.join("initramfs");
    let archive = archive(&bytes, Vec::new()).map_err(Error::file(&path))?;
    std::fs::write(&path, archive).map_err(Error::file(&path))?;
    Ok(path)
}

/// The archive, in the form that Linux unpacks. Numbers of inodes must differ, or they would be links.
fn archive<W: Write>(program: &[u8], mut to: W) -> io::Result<W> {
    let folder =
        |name, inode| Builder::new(name).ino(inode).mode(0o755).set_mode_file_type(ModeFileType::Directory);
    let console = Builder::new("dev/console")
        .ino(2)
        .mode(0o600)
        .set_mode_file_type(ModeFileType::Char)
        .rdev_major(CONSOLE.0)
        .rdev_minor(CONSOLE.1);
    let init = Builder::new("init").ino(4).mode(0o755).set_mode_file_type(ModeFileType::Regular);
    let size = u32::try_from(program.len()).map_err(io::Error::other)?;
    to = folder("dev", 1).write(to, 0).finish()?;
    to = console.write(to, 0).finish()?;
    to = folder("proc", 3).write(to, 0).finish()?;
    let mut file = init.write(to, size);
    file.write_all(program)?;
    newc::trailer(file.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_program_and_a_console() {
        let mut rest = archive(b"program", Vec::new()).unwrap();
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(rest.as_slice()).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry().clone();
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            found.push((entry.name().to_owned(), entry.mode(), content));
            if entry.name() == "dev/console" {
                assert_eq!((entry.rdev_major(), entry.rdev_minor()), CONSOLE);
            }
            rest = reader.finish().unwrap().to_vec();
        }
        let entry = |name: &str, mode, content: &[u8]| (name.to_owned(), mode, content.to_vec());
        assert_eq!(
            found,
            [
                entry("dev", 0o040_755, b""),
                entry("dev/console", 0o020_600, b""),
                entry("proc", 0o040_755, b""),
                entry("init", 0o100_755, b"program"),
            ]
        );
    }
}
