//! The figures as curves.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::sample::Summary;

/// What is drawn: cases with what they are called, and subjects with their colours.
struct Plot {
    panels: [(&'static str, &'static str); 3],
    subjects: &'static [(&'static str, RGBColor)],
}

const RED: RGBColor = RGBColor(0xc6, 0x28, 0x28);
const BROWN: RGBColor = RGBColor(0xb2, 0x6a, 0x00);
const BLUE: RGBColor = RGBColor(0x15, 0x65, 0xc0);

const FRAMES: Plot = Plot {
    panels: [
        ("cache_lines", "cache lines from other CPUs, per alloc or free"),
        ("locks_contended", "locks found taken, per alloc or free"),
        ("cas_retries", "compare-and-swaps that failed, per alloc or free"),
    ],
    subjects: &[("global-lock", RED), ("node-lock", BROWN), ("topomem", BLUE)],
};

const SPACES: Plot = Plot {
    panels: [
        ("fault_lines", "cache lines from other CPUs, per fault"),
        ("mmap_lines", "cache lines from other CPUs, per mmap"),
        ("locks_contended", "locks and claims found taken, per region"),
    ],
    subjects: &[("two-level", RED), ("topomem", BLUE)],
};

const HEAP: Plot = Plot {
    panels: [
        ("own_lines", "cache lines from other CPUs, own objects"),
        ("passed_lines", "cache lines from other CPUs, freed by another CPU"),
        ("large_lines", "cache lines from other CPUs, large objects"),
    ],
    subjects: &[("spin-lock", RED), ("topomem", BLUE)],
};

const SIZE: (u32, u32) = (960, 330);

/// Draws the medians of [`run_frames`](super::run_frames) as an SVG file, a panel for each case, CPUs to the
/// right.
///
/// # Errors
///
/// If the file can't be written.
pub fn draw_frames(summaries: &[Summary], path: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    draw(&FRAMES, summaries, path)
}

/// Draws the medians of [`run_spaces`](super::run_spaces), as [`draw_frames`].
///
/// # Errors
///
/// If the file can't be written.
pub fn draw_spaces(summaries: &[Summary], path: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    draw(&SPACES, summaries, path)
}

/// Draws the medians of [`run_heap`](super::run_heap), as [`draw_frames`].
///
/// # Errors
///
/// If the file can't be written.
pub fn draw_heap(summaries: &[Summary], path: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    draw(&HEAP, summaries, path)
}

fn draw(plot: &Plot, summaries: &[Summary], path: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (case, title)) in root.split_evenly((1, plot.panels.len())).iter().zip(plot.panels) {
        panel(area, summaries, plot.subjects, case, title)?;
    }
    root.present()?;
    Ok(())
}

fn panel<'p>(
    area: &DrawingArea<SVGBackend<'p>, Shift>,
    summaries: &[Summary],
    subjects: &[(&'static str, RGBColor)],
    case: &str,
    title: &str,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let of_case = || summaries.iter().filter(|summary| summary.case == case);
    let most_cpus = of_case().map(|summary| summary.cpus).max().unwrap_or(1) as f64;
    let highest = of_case().map(|summary| summary.median).fold(0.1, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 13))
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
    for &(subject, colour) in subjects {
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
