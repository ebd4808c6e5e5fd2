//! Where things are.

use std::path::{Path, PathBuf};

/// The workspace's root: this package is two folders below.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

/// Folder for everything built: cargo's own, from the environment or the default.
pub(crate) fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// A path as people want to see it: inside the workspace, a package, or Rust's library.
pub(crate) fn shorten(path: &str) -> &str {
    if let Some(inside) = Path::new(path).strip_prefix(root()).ok().and_then(Path::to_str) {
        return inside;
    }
    if let Some((_, inside)) = path.split_once("/registry/src/") {
        return inside.split_once('/').map_or(inside, |(_, package)| package);
    }
    path.find("/library/").map_or(path, |at| &path[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortens_paths() {
        let inside = root().join("qemu/kernel/src/main.rs");
        assert_eq!(shorten(inside.to_str().unwrap()), "qemu/kernel/src/main.rs");
        assert_eq!(
            shorten("/root/.cargo/registry/src/index.crates.io-1/spin-0.12.0/src/once.rs"),
            "spin-0.12.0/src/once.rs"
        );
        assert_eq!(shorten("/rustc/0123/library/core/src/panicking.rs"), "library/core/src/panicking.rs");
        assert_eq!(shorten("/elsewhere/file.rs"), "/elsewhere/file.rs");
    }
}
