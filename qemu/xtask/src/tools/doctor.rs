//! Says what is installed and what is missing.

use super::tool::Tool;
use crate::bench::linux;
use crate::qemu;
use crate::shell;

/// Optional programs, and what they are good for.
const OPTIONAL: [(&str, &str); 1] = [("gdb", "cargo xtask qemu --gdb")];

/// Prints what there is and what is missing, with the commands that install it. Is everything there?
pub(crate) fn doctor() -> bool {
    let mut missing = Vec::new();
    for program in ["rustup", "cargo", "rustc", "git"] {
        match shell::output(program, &["--version"]) {
            Some(version) => present(program, version.lines().next().unwrap_or_default()),
            None => absent(program, "everything needs it"),
        }
    }
    for tool in Tool::ALL {
        match tool.found() {
            Some(found) => present(tool.name(), &found),
            None => {
                absent(tool.name(), tool.purpose());
                missing.push(tool);
            }
        }
    }
    for (program, purpose) in OPTIONAL {
        match shell::find(program) {
            Some(path) => present(program, &path.display().to_string()),
            None => println!("  optional {program:<38} not there; for {purpose}"),
        }
    }
    for tool in Tool::OPTIONAL {
        match tool.found() {
            Some(found) => present(tool.name(), &found),
            None => println!("  optional {:<38} not there; {}", tool.name(), tool.purpose()),
        }
    }
    match qemu::kvm_obstacle() {
        None => present("KVM", "/dev/kvm"),
        Some(obstacle) => {
            println!("  optional {:<38} {obstacle}; for cargo xtask qemu --accel kvm", "KVM");
        }
    }
    match linux::downloaded() {
        Some(kernel) => present("Debian's Linux", &kernel.display().to_string()),
        None => println!("  optional {:<38} not there; to compare with, downloaded then", "Debian's Linux"),
    }
    if missing.is_empty() {
        println!("nothing is missing");
        return true;
    }
    for tool in &missing {
        println!("\nto install {}:", tool.name());
        tool.instructions().iter().for_each(|command| println!("    {command}"));
    }
    let installable = missing.iter().all(|tool| tool.obstacle().is_none());
    if installable {
        println!("\n`cargo xtask prepare` does all of it; the commands that need it do it themselves");
    }
    false
}

fn present(what: &str, detail: &str) {
    println!("  there    {what:<38} {detail}");
}

fn absent(what: &str, purpose: &str) {
    println!("  MISSING  {what:<38} {purpose}");
}
