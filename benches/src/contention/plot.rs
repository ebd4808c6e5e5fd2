//! The figures as curves.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::sample::Summary;

/// What is drawn, with what it is called there.
const PANELS: [(&str, &str); 3] = [
    ("cache_lines", "cache lines from other CPUs"),
    ("locks_contended", "locks found taken"),
    ("cas_retries", "compare-and-swaps that failed"),
];

const SUBJECTS: [(&str, RGBColor); 3] = [
    ("global-lock", RGBColor(0xc6, 0x28, 0x28)),
    ("node-lock", RGBColor(0xb2, 0x6a, 0x00)),
    ("topomem", RGBColor(0x15, 0x65, 0xc0)),
];

const SIZE: (u32, u32) = (960, 330);

/// Draws the medians as an SVG file, a panel for each case, CPUs to the right.
///
/// # Errors
/// Where the file can't be written.
pub fn draw(summaries: &[Summary], path: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (case, title)) in root.split_evenly((1, PANELS.len())).iter().zip(PANELS) {
        panel(area, summaries, case, title)?;
    }
    root.present()?;
    Ok(())
}

fn panel<'p>(
    area: &DrawingArea<SVGBackend<'p>, Shift>,
    summaries: &[Summary],
    case: &str,
    title: &str,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let of_case = || summaries.iter().filter(|summary| summary.case == case);
    let most_cpus = of_case().map(|summary| summary.cpus).max().unwrap_or(1) as f64;
    let highest = of_case().map(|summary| summary.median).fold(0.1, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}, per alloc or free"), ("sans-serif", 14))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(36)
        .build_cartesian_2d((1.0..most_cpus).log_scale().base(2.0), 0.0..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("CPUs")
        .x_labels(5)
        .x_label_formatter(&|cpus| format!("{cpus:.0}"))
        .y_labels(6)
        .y_label_formatter(&|value| format!("{value:.1}"))
        .draw()?;
    for (subject, colour) in SUBJECTS {
        let points: Vec<_> = of_case()
            .filter(|summary| summary.subject == subject)
            .map(|summary| (summary.cpus as f64, summary.median))
            .collect();
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
            .label(subject)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}
