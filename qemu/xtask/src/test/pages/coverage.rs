//! Does `docs/src/testing/coverage.md` name what Miri leaves out, and what has loom models? Does Cargo run every test?

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::workspace;

/// The folders of the four crates.
const FOLDERS: [&str; 8] = [
    "src",
    "tests",
    "percpu/src",
    "percpu/tests",
    "numa/src",
    "numa/tests",
    "shootdown/src",
    "shootdown/tests",
];
/// What a test has that Miri leaves out, and a model. Helpers of models have no tests.
const MARKS: [&str; 6] = [
    "cfg_attr(miri, ignore",
    "#![cfg(not(miri",
    "#![cfg(not(any(loom, miri",
    "not(miri)))]",
    "#![cfg(loom)]",
    "loom::model(",
];

/// The sources in a folder; of `tests`, those of the package itself alone.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && !path.join("Cargo.toml").exists() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_page_names_every_file_that_miri_leaves_out_or_that_has_models() {
    let page = fs::read_to_string(workspace::root().join("docs/src/testing/coverage.md")).unwrap();
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| sources(&workspace::root().join(folder), &mut files));
    let (mut named, mut missing) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        if !text.contains("#[test]") || !MARKS.iter().any(|mark| text.contains(mark)) {
            continue;
        }
        let name = file.file_stem().unwrap().to_str().unwrap();
        // A folder's own file has the folder's name; the modules of a test program have the program's.
        let is_of_folder = matches!(name, "mod" | "main") || file.with_file_name("main.rs").exists();
        let name =
            if is_of_folder { file.parent().unwrap().file_name().unwrap().to_str().unwrap() } else { name };
        if page.contains(name) {
            named += 1;
        } else {
            missing.push(file);
        }
    }
    assert!(missing.is_empty(), "docs/src/testing/coverage.md does not name {missing:?}");
    assert!(named > 80, "{named} files");
}

/// Cargo finds a test program by itself only if its file stands in `tests` directly.
#[test]
fn every_test_in_a_folder_of_tests_is_a_program_of_its_manifest() {
    let mut strays = Vec::new();
    let mut programs = 0;
    for package in ["", "percpu", "numa", "shootdown"] {
        let root = workspace::root().join(package);
        let manifest: Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
        let entries = manifest.get("test").and_then(Value::as_array).into_iter().flatten();
        let listed: BTreeSet<PathBuf> =
            entries.filter_map(|entry| Some(root.join(entry.get("path")?.as_str()?))).collect();
        let mut files = Vec::new();
        sources(&root.join("tests"), &mut files);
        for file in files {
            if file.parent() == Some(&root.join("tests"))
                || !fs::read_to_string(&file).unwrap().contains("#[test]")
            {
                continue;
            }
            programs += 1;
            // Or it is a module of a program's main file.
            let main = file.with_file_name("main.rs");
            let module = format!("mod {};\n", file.file_stem().unwrap().to_str().unwrap());
            let is_module = listed.contains(&main) && fs::read_to_string(&main).unwrap().contains(&module);
            if !listed.contains(&file) && !is_module {
                strays.push(file);
            }
        }
    }
    assert!(strays.is_empty(), "Cargo does not run {strays:?}");
    assert!(programs > 70, "{programs} programs");
}
