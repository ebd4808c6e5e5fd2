//! Do the links of the project's pages lead somewhere, and do the pages tell the truth about names and bounds?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag, TagEnd};
use toml::Table;
use topomem_stress::Break;

use crate::workspace;

/// The folder of the guide's pages.
const GUIDE: &str = "docs/src";

/// The pages outside of the guide.
const PAGES: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "percpu/README.md",
    "numa/README.md",
    "shootdown/README.md",
];

/// Greatest number of lines of a page, and of the map.
const LONGEST_PAGE: usize = 400;
const LONGEST_MAP: usize = 150;

/// A Markdown page.
struct Page {
    /// From the workspace's root.
    path: PathBuf,
    text: String,
}

/// The links and the anchors of a page.
#[derive(Default)]
struct Links {
    targets: Vec<String>,
    anchors: BTreeSet<String>,
}

/// Adds the Markdown files below `folder`.
fn find_pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(workspace::root().join(folder)).unwrap().map(Result::unwrap) {
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            find_pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// Returns the guide's pages, and those outside of it that exist.
fn pages() -> Vec<Page> {
    let mut paths = Vec::new();
    find_pages(Path::new(GUIDE), &mut paths);
    paths.extend(PAGES.iter().map(PathBuf::from));
    paths
        .into_iter()
        .map(|path| Page { text: fs::read_to_string(workspace::root().join(&path)).unwrap(), path })
        .collect()
}

/// Returns the anchor that GitHub and mdBook make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Returns the links and anchors of a text.
fn links(text: &str) -> Links {
    let mut links = Links::default();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(
                Tag::Link { link_type: LinkType::Inline | LinkType::Reference, dest_url, .. }
                | Tag::Image { dest_url, .. },
            ) => links.targets.push(dest_url.into_string()),
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                links.anchors.extend(heading.take().as_deref().map(anchor));
            }
            Event::Text(words) | Event::Code(words) => {
                heading.iter_mut().for_each(|heading| heading.push_str(&words));
            }
            _ => {}
        }
    }
    links
}

/// Returns `path` without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(normal.pop(), "{path:?} leaves the workspace"),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Returns the reason why a link leads nowhere.
fn fault(page: &Path, target: &str, anchors: &BTreeMap<PathBuf, BTreeSet<String>>) -> Option<String> {
    if target.starts_with("https://") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = match path {
        "" => page.to_owned(),
        path => normal(&page.parent().unwrap().join(path)),
    };
    let missing = |what: &str| Some(format!("{}: {target}: {what}", page.display()));
    if !workspace::root().join(&path).exists() {
        return missing("there is no such file");
    }
    let is_page = path.extension().is_some_and(|extension| extension == "md");
    // A book has the pages of its folder only, and turns every link to another one into a link to nothing.
    if is_page && page.starts_with(GUIDE) && !path.starts_with(GUIDE) {
        return missing("the page is not in the book");
    }
    let anchor = anchor?;
    match anchors.get(&path) {
        Some(known) if known.contains(anchor) => None,
        Some(_) => missing("there is no such heading"),
        None => missing("anchors lead into pages only"),
    }
}

#[test]
fn links_of_pages_lead_to_files_and_headings() {
    let pages = pages();
    let found: Vec<Links> = pages.iter().map(|page| links(&page.text)).collect();
    let anchors: BTreeMap<PathBuf, BTreeSet<String>> =
        pages.iter().zip(&found).map(|(page, links)| (page.path.clone(), links.anchors.clone())).collect();
    let faults: Vec<String> = pages
        .iter()
        .zip(&found)
        .flat_map(|(page, links)| {
            links.targets.iter().filter_map(|target| fault(&page.path, target, &anchors))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let links: usize = found.iter().map(|links| links.targets.len()).sum();
    assert!(links > 250, "{links} links");
}

#[test]
fn the_summary_has_every_page_of_the_guide() {
    let summary = Path::new(GUIDE).join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = links(&fs::read_to_string(workspace::root().join(&summary)).unwrap())
        .targets
        .iter()
        .map(|target| Path::new(GUIDE).join(target))
        .collect();
    let mut there = Vec::new();
    find_pages(Path::new(GUIDE), &mut there);
    let there: BTreeSet<PathBuf> = there.into_iter().filter(|path| *path != summary).collect();
    assert_eq!(listed, there);
}

#[test]
fn pages_are_short_and_protocols_have_a_sequence_and_invariants() {
    for page in pages() {
        let lines = page.text.lines().count();
        let longest = if page.path.ends_with("ARCHITECTURE.md") { LONGEST_MAP } else { LONGEST_PAGE };
        assert!(lines <= longest, "{} has {lines} lines", page.path.display());
        if page.path.starts_with(Path::new(GUIDE).join("protocols")) {
            assert!(page.text.contains("## Invariants"), "{}", page.path.display());
            assert!(page.text.contains("```text"), "{} has no diagram", page.path.display());
        }
    }
}

#[test]
fn the_page_of_commands_names_every_deliberate_break() {
    let page = fs::read_to_string(workspace::root().join(GUIDE).join("commands.md")).unwrap();
    let missing: Vec<&str> = Break::ALL
        .iter()
        .map(|fault| fault.name())
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The folder of the frame allocator, and the page with the table of the folder's rooms.
const FRAMES: &str = "numa/src/frames";
const FRAMES_PAGE: &str = "docs/src/tiers/frames.md";

/// Greatest number of files in a room.
const LARGEST_ROOM: usize = 14;

/// Returns the rooms in the order of the page's table.
fn rooms() -> Vec<String> {
    let page = fs::read_to_string(workspace::root().join(FRAMES_PAGE)).unwrap();
    let rows = page.lines().skip_while(|line| *line != "| room | contents |").skip(2);
    let cells = rows.take_while(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

/// Returns the rooms that a source file names, without comments.
fn rooms_named(source: &str) -> BTreeSet<&str> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let named = code.flat_map(|line| line.split("crate::frames::").skip(1));
    named
        .map(|rest| rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap_or_default())
        .collect()
}

#[test]
fn each_room_of_the_frame_allocator_uses_only_rooms_above_it() {
    let rooms = rooms();
    let folder = workspace::root().join(FRAMES);
    let mut found: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort_unstable();
    let mut named = rooms.clone();
    named.sort_unstable();
    assert_eq!(named, found, "the table of {FRAMES_PAGE} has all rooms");
    let mut faults = Vec::new();
    for (number, room) in rooms.iter().enumerate() {
        let files: Vec<PathBuf> =
            fs::read_dir(folder.join(room)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() <= LARGEST_ROOM, "{room} has {} files", files.len());
        for file in files {
            let source = fs::read_to_string(&file).unwrap();
            let below: Vec<&str> = rooms_named(&source)
                .into_iter()
                .filter(|name| rooms[number + 1..].iter().any(|room| room == name))
                .collect();
            if !below.is_empty() {
                faults.push(format!("{} uses {below:?}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Returns the bounds in one of the benches' files of limits, each with its case.
fn bounds(file: &str) -> Vec<(String, f64)> {
    let text = fs::read_to_string(workspace::root().join("benches").join(file)).unwrap();
    let table: Table = text.parse().unwrap();
    let limits = table["limit"].as_array().unwrap();
    limits
        .iter()
        .filter_map(|limit| {
            let bound = limit.get("bound")?;
            let bound = bound.as_float().or_else(|| bound.as_integer().map(|bound| bound as f64))?;
            Some((limit["case"].as_str()?.to_owned(), bound))
        })
        .collect()
}

#[test]
fn the_readme_has_the_bounds_that_the_tests_hold() {
    let readme = fs::read_to_string(workspace::root().join("README.md")).unwrap();
    let known: Vec<(String, f64)> =
        ["limits.toml", "shootdown.toml", "vm.toml"].iter().flat_map(|file| bounds(file)).collect();
    let mut rows = 0;
    for line in readme.lines().skip_while(|line| *line != "## Figures") {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, case, bound] = cells[..] else { continue };
        let (Some(case), Ok(bound)) =
            (case.strip_prefix('`').and_then(|case| case.strip_suffix('`')), bound.parse::<f64>())
        else {
            continue;
        };
        assert!(known.contains(&(case.to_owned(), bound)), "{case} has no bound {bound}");
        rows += 1;
    }
    assert!(rows >= 6, "{rows} rows");
}

#[test]
fn anchors_are_made_as_github_and_mdbook_make_them() {
    assert_eq!(anchor("Linux as a measure"), "linux-as-a-measure");
    assert_eq!(anchor("The `x86_64` crate's traits"), "the-x86_64-crates-traits");
    assert_eq!(anchor("Models, and parsers"), "models-and-parsers");
}

#[test]
fn links_that_lead_nowhere_are_named() {
    let page = Path::new("docs/src/tiers/frames.md");
    let links = links(
        "# A heading\n\n[a](heap.md), [b](#a-heading), ![c](../none.svg)\n\n```text\n[d](none.md)\n```\n",
    );
    let anchors = BTreeMap::from([(page.to_owned(), links.anchors.clone())]);
    let fault = |target: &str| fault(page, target, &anchors);
    assert_eq!(links.targets, ["heap.md", "#a-heading", "../none.svg"]);
    assert_eq!((fault("heap.md"), fault("#a-heading"), fault("../../../src/lib.rs")), (None, None, None));
    for wrong in ["../none.svg", "#none", "none.md", "../../../README.md", "../../../src/lib.rs#alloc"] {
        assert!(fault(wrong).is_some(), "{wrong}");
    }
}
