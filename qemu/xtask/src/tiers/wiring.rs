//! Counting lines of wiring.

use super::Tier;
use crate::error::Error;

/// How many lines of code a tier's file has: neither empty nor comments.
pub(super) fn lines(tier: Tier) -> Result<usize, Error> {
    let path = tier.wiring();
    let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
    Ok(count(&text))
}

fn count(text: &str) -> usize {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

#[cfg(test)]
mod tests {
    #[test]
    fn comments_and_empty_lines_are_no_code() {
        assert_eq!(super::count("//! Module.\n\nfn f() {\n    // Why.\n    g();\n}\n"), 3);
    }
}
