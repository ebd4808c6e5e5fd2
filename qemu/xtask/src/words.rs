//! `cargo xtask words`: measures the comments of the library crates, so that they stay in plain English.
//!
//! The figures are approximations: comments are read line by line, and prose is split into words without a
//! grammar.

use std::fs;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::workspace;

/// The library crates, each with its folder of sources.
const CRATES: [(&str, &str); 4] =
    [("percpu", "percpu/src"), ("numa", "numa/src"), ("shootdown", "shootdown/src"), ("topomem", "src")];

/// Words in place of a name. Many of them make a text hard to follow.
const PRONOUNS: [&str; 30] = [
    "it", "its", "itself", "they", "them", "their", "theirs", "that", "those", "this", "these", "who",
    "whom", "whose", "whoever", "which", "one", "ones", "others", "other", "such", "so", "there", "what",
    "nobody", "somebody", "anybody", "anyone", "someone", "whatever",
];

/// Words before a "what" or "who" in place of a noun.
const BEFORE_BARE: [&str; 7] = ["and", "of", "for", "to", "from", "by", "or"];

/// Capitalised words on "s" at the start of a summary that are not verbs.
const NOT_VERBS: [&str; 17] = [
    "Is",
    "This",
    "Its",
    "Has",
    "Bytes",
    "Pages",
    "Frames",
    "Always",
    "Does",
    "Was",
    "Us",
    "As",
    "Bits",
    "Words",
    "Addresses",
    "Nodes",
    "Cpus",
];

/// The bounds for all crates together.
const BOUNDS: Bounds = Bounds { verbs: 92.0, pronouns: 5.0, what: 3.0, who: 2.0, examples: 39.5 };

/// The least shares in percent, and the greatest frequencies.
struct Bounds {
    verbs: f64,
    pronouns: f64,
    what: f64,
    who: f64,
    examples: f64,
}

/// Counts over the comments of some files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Documented functions.
    functions: usize,
    /// Documented functions with a summary that starts with a verb in the third person.
    verbs: usize,
    words: usize,
    pronouns: usize,
    what: usize,
    who: usize,
    /// Documented public items.
    items: usize,
    /// Documented public items with an example.
    examples: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.functions += other.functions;
        self.verbs += other.verbs;
        self.words += other.words;
        self.pronouns += other.pronouns;
        self.what += other.what;
        self.who += other.who;
        self.items += other.items;
        self.examples += other.examples;
    }
}

impl Counts {
    /// Returns the percentage of functions with a summary that starts with a verb.
    fn verb_share(&self) -> f64 {
        per(100.0, self.verbs, self.functions)
    }

    /// Returns the number of pronouns in 100 words.
    fn pronoun_rate(&self) -> f64 {
        per(100.0, self.pronouns, self.words)
    }

    /// Returns the number of bare "what"s in 10 000 words.
    fn what_rate(&self) -> f64 {
        per(10_000.0, self.what, self.words)
    }

    /// Returns the number of bare "who"s in 10 000 words.
    fn who_rate(&self) -> f64 {
        per(10_000.0, self.who, self.words)
    }

    /// Returns the percentage of public items with an example.
    fn example_share(&self) -> f64 {
        per(100.0, self.examples, self.items)
    }

    /// Returns a line for each bound that the counts miss.
    fn missed(&self, bounds: &Bounds) -> Vec<String> {
        let least = [
            ("summaries that start with a verb (%)", self.verb_share(), bounds.verbs),
            ("public items with an example (%)", self.example_share(), bounds.examples),
        ];
        let most = [
            ("pronouns in 100 words", self.pronoun_rate(), bounds.pronouns),
            ("bare \"what\" in 10 000 words", self.what_rate(), bounds.what),
            ("bare \"who\" in 10 000 words", self.who_rate(), bounds.who),
        ];
        let below = least.into_iter().filter(|(_, found, bound)| found < bound);
        let above = most.into_iter().filter(|(_, found, bound)| found > bound);
        below
            .map(|(name, found, bound)| format!("{name}: {found:.1}, at least {bound}"))
            .chain(above.map(|(name, found, bound)| format!("{name}: {found:.1}, at most {bound}")))
            .collect()
    }
}

/// Returns `count` in units of `unit` per `total`, or 0 without a total.
fn per(unit: f64, count: usize, total: usize) -> f64 {
    if total == 0 { 0.0 } else { unit * count as f64 / total as f64 }
}

/// Writes a table of the crates' figures. Returns true if all bounds are kept.
pub(crate) fn words() -> Result<bool, Error> {
    println!(
        "{:10} {:>9} {:>13} {:>13} {:>8} {:>7} {:>6} {:>12}",
        "crate", "functions", "verb first, %", "pronouns/100", "what/10k", "who/10k", "items", "examples, %"
    );
    let mut all = Counts::default();
    for (name, folder) in CRATES {
        let counts = measure(&workspace::root().join(folder))?;
        print(name, &counts);
        all += counts;
    }
    print("all", &all);
    let missed = all.missed(&BOUNDS);
    missed.iter().for_each(|line| println!("out of bounds: {line}"));
    Ok(missed.is_empty())
}

fn print(name: &str, counts: &Counts) {
    println!(
        "{name:10} {:9} {:13.0} {:13.1} {:8.1} {:7.1} {:6} {:12.1}",
        counts.functions,
        counts.verb_share(),
        counts.pronoun_rate(),
        counts.what_rate(),
        counts.who_rate(),
        counts.items,
        counts.example_share()
    );
}

/// Measures the Rust files below `folder`, except tests and models.
fn measure(folder: &Path) -> Result<Counts, Error> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |error| Error::File { path, error }
    };
    let mut counts = Counts::default();
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if matches!(name, "test" | "tests" | "model" | "models" | "sim") || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            counts += measure(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            counts += count(&fs::read_to_string(&path).map_err(failed(&path))?);
        }
    }
    Ok(counts)
}

/// Counts the comments of one file.
fn count(source: &str) -> Counts {
    let mut counts = Counts::default();
    for comment in comments(source) {
        let prose = prose(&comment.text);
        let tokens: Vec<Token<'_>> = tokens(&prose).collect();
        let is = |token: &Token<'_>, words: &[&str]| {
            words.iter().any(|word| token.word.eq_ignore_ascii_case(word))
        };
        counts.words +=
            tokens.iter().filter(|token| token.word.starts_with(|c: char| c.is_alphabetic())).count();
        counts.pronouns += tokens.iter().filter(|token| is(token, &PRONOUNS)).count();
        for (index, token) in tokens.iter().enumerate() {
            let after = index.checked_sub(1).map(|index| &tokens[index]);
            let bare = token.begins || after.is_none_or(|after| is(after, &BEFORE_BARE));
            counts.what += usize::from(bare && is(token, &["what"]));
            counts.who += usize::from(bare && is(token, &["who", "whoever"]));
        }
        if comment.kind == Kind::Item {
            if is_function(&comment.code) {
                counts.functions += 1;
                counts.verbs += usize::from(starts_with_verb(&prose));
            }
            if is_public(&comment.code) {
                counts.items += 1;
                counts.examples += usize::from(comment.text.contains("```"));
            }
        }
    }
    counts
}

/// A run of comment lines of one kind.
struct Comment {
    kind: Kind,
    text: String,
    /// The code line behind it, without attributes.
    code: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `///`: documents the item behind it.
    Item,
    /// `//!`: documents the module.
    Module,
    /// `//`.
    Plain,
}

/// Returns the kind and the text of a comment line.
fn comment_line(line: &str) -> Option<(Kind, &str)> {
    let (kind, text) = if let Some(text) = line.strip_prefix("///") {
        (Kind::Item, text)
    } else if let Some(text) = line.strip_prefix("//!") {
        (Kind::Module, text)
    } else {
        (Kind::Plain, line.strip_prefix("//")?)
    };
    Some((kind, text.strip_prefix(' ').unwrap_or(text)))
}

/// Returns the comments of a file. Comments behind code on the same line are left out.
fn comments(source: &str) -> Vec<Comment> {
    let mut found = Vec::new();
    let mut current: Option<(Kind, Vec<&str>)> = None;
    let end = |current: &mut Option<(Kind, Vec<&str>)>, code: &str, found: &mut Vec<Comment>| {
        if let Some((kind, lines)) = current.take() {
            found.push(Comment { kind, text: lines.join("\n"), code: code.to_owned() });
        }
    };
    for line in source.lines().map(str::trim) {
        match (comment_line(line), &mut current) {
            (Some((kind, text)), Some((same, lines))) if kind == *same => lines.push(text),
            (Some((kind, text)), _) => {
                end(&mut current, line, &mut found);
                current = Some((kind, vec![text]));
            }
            (None, Some((Kind::Item, _))) if line.starts_with("#[") => {}
            (None, _) => end(&mut current, line, &mut found),
        }
    }
    end(&mut current, "", &mut found);
    found
}

/// Returns the text without code blocks and headings.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if line.starts_with('#') && !code {
            prose.push_str(". ");
        } else if !code {
            prose.push_str(line);
            prose.push(' ');
        }
    }
    prose
}

/// A word of prose.
struct Token<'t> {
    word: &'t str,
    /// Whether it begins a sentence or a clause.
    begins: bool,
}

/// Returns the words of `prose`.
fn tokens(prose: &str) -> impl Iterator<Item = Token<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = prose;
    std::iter::from_fn(move || {
        let start = rest.find(is_word)?;
        let begins = rest[..start].contains(['.', ';', ':', ',', '(']);
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        rest = &word[end..];
        Some(Token { word: &word[..end], begins })
    })
}

/// Returns true if the first word of a summary looks like a verb in the third person.
fn starts_with_verb(summary: &str) -> bool {
    let first = summary.split_whitespace().next().unwrap_or_default().trim_matches(['`', '*', ',', '.', ':']);
    first.len() > 2
        && first.ends_with('s')
        && first.starts_with(|c: char| c.is_ascii_uppercase())
        && first[1..].chars().all(|c| c.is_ascii_lowercase())
        && !NOT_VERBS.contains(&first)
}

/// Returns the words of a code line behind its visibility and qualifiers.
fn declared(code: &str) -> impl Iterator<Item = &str> {
    code.split_whitespace()
        .skip_while(|word| word.starts_with("pub") || matches!(*word, "const" | "unsafe" | "async"))
}

/// Returns true if a code line declares a function.
fn is_function(code: &str) -> bool {
    declared(code).next() == Some("fn")
}

/// Returns true if a code line declares a public item.
fn is_public(code: &str) -> bool {
    let kinds = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "union"];
    let mut words = code.split_whitespace();
    words.next() == Some("pub")
        && words.find(|word| !matches!(*word, "unsafe" | "async")).is_some_and(|word| kinds.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_crates_keep_to_the_bounds() {
        let mut all = Counts::default();
        for (_, folder) in CRATES {
            all += measure(&workspace::root().join(folder)).unwrap();
        }
        assert_eq!(all.missed(&BOUNDS), Vec::<String>::new());
    }

    #[test]
    fn functions_and_their_summaries_are_counted() {
        let counts =
            count("/// Returns a page.\n#[must_use]\npub const fn page() {}\n/// A page.\nfn other() {}\n");
        assert_eq!((counts.functions, counts.verbs), (2, 1));
        assert!(!starts_with_verb("Is it a page?") && !starts_with_verb("`Frames` has none."));
    }

    #[test]
    fn public_items_and_their_examples_are_counted() {
        let source = "/// A page.\n///\n/// ```\n/// let page = 1;\n/// ```\npub struct Page;\n\
                      /// Its number.\npub number: u64,\n/// Hidden.\npub(crate) fn hidden() {}\n";
        let counts = count(source);
        assert_eq!((counts.items, counts.examples), (1, 1));
    }

    #[test]
    fn pronouns_are_counted_and_code_is_not() {
        let counts = count(
            "// It takes what nobody has, of those that wait.\n/// ```\n/// it.that()\n/// ```\nfn f() {}\n",
        );
        assert_eq!((counts.words, counts.pronouns), (9, 5));
    }

    #[test]
    fn a_bare_what_begins_a_clause_or_follows_a_preposition() {
        let bare = |text: &str| count(&format!("// {text}\n"));
        assert_eq!(bare("What is free.").what, 1);
        assert_eq!(bare("A list of what is free, and who waits.").what, 1);
        assert_eq!(bare("A list of what is free, and who waits.").who, 1);
        assert_eq!(bare("It tells what is free.").what, 0);
    }

    #[test]
    fn missed_bounds_are_named() {
        let counts =
            Counts { functions: 10, verbs: 5, words: 100, items: 1, examples: 1, ..Counts::default() };
        let bounds = Bounds { verbs: 95.0, pronouns: 0.0, what: 0.0, who: 0.0, examples: 100.0 };
        assert_eq!(counts.missed(&bounds), ["summaries that start with a verb (%): 50.0, at least 95"]);
    }
}
