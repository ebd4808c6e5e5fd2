//! Plain text tables.

/// Rows of cells under a heading; numbers are aligned to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(str::to_owned).to_vec()] }
    }

    pub(crate) fn with_heading(heading: Vec<String>) -> Self {
        Self { rows: vec![heading] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as lines, indented by two.
    pub(crate) fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width =
            |column: usize| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
        let is_number = |column: usize| {
            let is_digit = |c: char| c.is_ascii_digit() || " .%-".contains(c);
            self.rows.iter().skip(1).all(|row| cell(row, column).chars().all(is_digit))
        };
        let shape: Vec<_> = (0..columns).map(|column| (width(column), is_number(column))).collect();
        let line = |row: &Vec<String>| {
            let cells = shape.iter().enumerate().map(|(column, &(width, right))| match right {
                true => format!("{:>width$}", cell(row, column)),
                false => format!("{:<width$}", cell(row, column)),
            });
            format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `part` of `whole` in per cent, rounded down: 100.0% is all of it.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match (u128::from(part) * 1000).checked_div(u128::from(whole)) {
        Some(permille) => format!("{}.{}%", permille / 10, permille % 10),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_numbers_right_and_words_left() {
        let mut table = Table::new(["cpu", "range"]);
        table.row(vec!["0".to_owned(), "0x0..0xa".to_owned()]);
        table.row(vec![String::new(), "0x10..0xab".to_owned()]);
        table.row(vec!["10".to_owned(), "all".to_owned()]);
        assert_eq!(table.lines(), ["  cpu  range", "    0  0x0..0xa", "       0x10..0xab", "   10  all"]);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([grouped(7), grouped(1234), grouped(1_234_567)], ["7", "1 234", "1 234 567"]);
        assert_eq!([percent(1, 3), percent(999_999, 1_000_000), percent(0, 0)], ["33.3%", "99.9%", "-"]);
    }
}
