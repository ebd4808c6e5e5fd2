//! topomem beside its peers, a row for each case.

use super::limits::Limits;
use crate::report::Table;
use crate::run::record::Measurement;

/// Who is beside it: itself with every double free found at once, and its peers.
const OTHERS: [&str; 3] = ["topomem paranoid", "bitmap-allocator", "buddy_system_allocator"];

/// Results as a table: medians with the lowest and highest tenth, how many times topomem's figure
/// each other's is, and what was aimed at.
pub(super) fn table(results: &[Measurement], limits: &Limits) -> Table {
    let mut heading: Vec<String> = ["case", "CPUs", "unit", "topomem"].map(str::to_owned).to_vec();
    OTHERS.iter().for_each(|other| heading.extend([(*other).to_owned(), "ratio".to_owned()]));
    heading.push("target".to_owned());
    let mut table = Table::with_heading(heading);
    for own in results.iter().filter(|result| result.subject == "topomem") {
        let mut row = vec![own.case.clone(), own.cpus.to_string(), own.unit.clone(), cell(own)];
        for other in OTHERS {
            let its = results
                .iter()
                .find(|result| result.subject == other && result.case == own.case && result.cpus == own.cpus);
            row.extend(its.map_or(["-".to_owned(), "-".to_owned()], |its| [cell(its), ratio(own, its)]));
        }
        let target = limits.target(own);
        row.push(target.map_or("-".to_owned(), |target| target.at_most.to_string()));
        table.row(row);
    }
    table
}

/// A median, with its spread where there is one.
pub(super) fn cell(result: &Measurement) -> String {
    let digits = digits(result.median);
    let [median, low, high] =
        [result.median, result.low, result.high].map(|figure| format!("{figure:.digits$}"));
    if low == high { median } else { format!("{median} ({low} .. {high})") }
}

/// A figure as precise as people can make use of.
pub(super) fn rounded(figure: f64) -> String {
    format!("{figure:.0$}", digits(figure))
}

fn digits(figure: f64) -> usize {
    match figure {
        figure if figure < 10.0 => 2,
        figure if figure < 100.0 => 1,
        _ => 0,
    }
}

/// How many times topomem's figure another's is. Percentages stand for themselves.
pub(super) fn ratio(own: &Measurement, its: &Measurement) -> String {
    match own.median {
        median if median > 0.0 && own.unit != "%" => format!("{:.2}", its.median / median),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::limits::Suite;

    #[test]
    fn compares_with_the_same_case_on_as_many_cpus() {
        let result = |subject: &str, cpus, median: f64| Measurement {
            suite: "frames".to_owned(),
            case: "pair_burst32".to_owned(),
            subject: subject.to_owned(),
            cpus,
            unit: "ns".to_owned(),
            median,
            low: median - 1.0,
            high: median + 2.0,
            n: 15,
        };
        let results = [
            result("bitmap-allocator", 2, 90.0),
            result("topomem", 1, 10.0),
            result("bitmap-allocator", 1, 25.0),
        ];
        let lines = table(&results, &Limits::load(Suite::Frames).unwrap()).lines();
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(words[..7], ["pair_burst32", "1", "ns", "10.0", "(9.0", "..", "12.0)"]);
        assert_eq!(words[7..13], ["-", "-", "25.0", "(24.0", "..", "27.0)"]);
        assert_eq!(words[13..], ["2.50", "-", "-", "10"]);
    }
}
