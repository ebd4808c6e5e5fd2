//! Which of Debian's packages holds the kernel.

use crate::shell;

/// Packages that depend on a kernel, best first: the release that topomem's aims were set against, where Debian has
/// it, and otherwise what it ships.
pub(super) const ALIASES: [&str; 2] = ["linux-image-6.12-amd64", "linux-image-amd64"];

/// The package of a kernel that apt knows of.
pub(super) fn known() -> Option<String> {
    ALIASES.iter().find_map(|alias| {
        let description = shell::output("apt-cache", &["show", "--no-all-versions", alias])?;
        dependency(&description).map(str::to_owned)
    })
}

/// The kernel that a package without content depends on.
fn dependency(description: &str) -> Option<&str> {
    let depends = description.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let names = depends.split([',', '|']).filter_map(|item| item.split_whitespace().next());
    names.into_iter().find(|name| name.starts_with("linux-image-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_kernel_behind_an_alias() {
        let description = "Package: linux-image-amd64\nVersion: 6.12.117-1\n\
                           Depends: initramfs-tools | dracut, linux-image-6.12.117+deb12-amd64 (= 6.12.117-1~deb12u1)\n";
        assert_eq!(dependency(description), Some("linux-image-6.12.117+deb12-amd64"));
    }

    #[test]
    fn what_depends_on_no_kernel_is_none() {
        assert_eq!(dependency("Package: x\nRecommends: linux-image-1\n"), None);
        assert_eq!(dependency("Package: x\nDepends: libc6, linux-base (>= 4.3)\n"), None);
        assert_eq!(dependency("Package: x\nDepends:\n"), None);
        assert_eq!(dependency(""), None);
    }
}
