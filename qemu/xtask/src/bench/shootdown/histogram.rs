//! How long changes take, as histograms.

use std::io;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::Error;
use crate::run::record::Distribution;

/// What is drawn, with what it is called there.
const PANELS: [(&str, &str); 2] =
    [("protect_wait", "a page becomes read-only"), ("unmap_wait", "a page is unmapped")];

const SUBJECTS: [(&str, RGBColor); 2] =
    [("topomem", RGBColor(0x15, 0x65, 0xc0)), ("linux", RGBColor(0xc6, 0x28, 0x28))];

/// Times are drawn where two CPUs have a processor of the host each.
const CPUS: u32 = 2;
const SIZE: (u32, u32) = (960, 400);
const FONT: &str = "sans-serif";
/// Bars from one time to twice that time.
const PER_OCTAVE: f64 = 8.0;

type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;

/// Draws the distributions as an SVG file, a panel for each case. `place` says on what they were measured.
pub(super) fn draw(distributions: &[Distribution], place: &str, path: &Path) -> Result<(), Error> {
    try_draw(distributions, place, path)
        .map_err(|error| Error::Plot { path: path.to_owned(), reason: error.to_string() })
}

fn try_draw(distributions: &[Distribution], place: &str, path: &Path) -> Drawn {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title =
        format!("Until the other of {CPUS} CPUs, which spins in the space, has forgotten the old mapping");
    let below = root.titled(&title, (FONT, 17))?;
    let below = below.titled(place, (FONT, 12))?;
    for (area, (case, title)) in below.split_evenly((1, PANELS.len())).iter().zip(PANELS) {
        let curves = SUBJECTS.map(|(subject, colour)| {
            let of = |one: &&Distribution| one.cpus == CPUS && one.case == case && one.subject == subject;
            let boots: Vec<&Distribution> = distributions.iter().filter(of).collect();
            Curve { label: label(subject, &boots), colour, outline: outline(&boots) }
        });
        panel(area, title, &curves)?;
    }
    root.present()
}

/// One subject's histogram.
struct Curve {
    label: String,
    colour: RGBColor,
    outline: Vec<(f64, f64)>,
}

/// Who it is, and how much was measured.
fn label(subject: &str, boots: &[&Distribution]) -> String {
    let samples = boots.iter().map(|boot| boot.n).min().unwrap_or(0);
    format!("{subject}, N = {} x {samples}", boots.len())
}

fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, curves: &[Curve]) -> Drawn {
    let points = || curves.iter().flat_map(|curve| &curve.outline);
    // A little room on either side, so that no bar stands on the frame.
    let shortest = points().map(|point| point.0).fold(f64::INFINITY, f64::min).min(1000.0) / 1.2;
    let longest = points().map(|point| point.0).fold(shortest * 2.0, f64::max) * 1.2;
    let highest = points().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 14))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d((shortest..longest).log_scale(), 0.0..highest)?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.05))
        .x_desc("microseconds, logarithmic")
        .y_desc("% of the changes")
        .x_labels(8)
        .x_label_formatter(&|&time| microseconds(time))
        .y_labels(6)
        .y_label_formatter(&|share| format!("{share:.0}"))
        .draw()?;
    for Curve { label, colour, outline } in curves.iter().filter(|curve| !curve.outline.is_empty()) {
        let colour = *colour;
        chart.draw_series([Polygon::new(outline.clone(), colour.mix(0.2))])?;
        chart
            .draw_series(LineSeries::new(outline.iter().copied(), colour.stroke_width(2)))?
            .label(label.as_str())
            .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.mix(0.6).filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font((FONT, 12))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()
}

fn microseconds(time: f64) -> String {
    if time < 1.0 { format!("{time:.1}") } else { format!("{time:.0}") }
}

/// The top of a histogram with bars that are equally wide on a logarithmic scale. Each percentile of each boot
/// stands for as many samples as any other.
fn outline(boots: &[&Distribution]) -> Vec<(f64, f64)> {
    let times = boots.iter().flat_map(|boot| boot.percentiles.iter().copied());
    let bars: Vec<i32> =
        times.filter(|&time| time > 0.0).map(|time| (time.log2() * PER_OCTAVE).floor() as i32).collect();
    let (Some(&first), Some(&last)) = (bars.iter().min(), bars.iter().max()) else { return Vec::new() };
    let edge = |bar: i32| (f64::from(bar) / PER_OCTAVE).exp2();
    let mut outline = vec![(edge(first), 0.0)];
    for bar in first..=last {
        let share = bars.iter().filter(|&&other| other == bar).count() as f64 * 100.0 / bars.len() as f64;
        outline.extend([(edge(bar), share), (edge(bar + 1), share)]);
    }
    outline.push((edge(last + 1), 0.0));
    outline
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(subject: &str, percentiles: &[f64]) -> Distribution {
        Distribution {
            case: "unmap_wait".to_owned(),
            subject: subject.to_owned(),
            cpus: CPUS,
            unit: "us".to_owned(),
            n: 2000,
            percentiles: percentiles.to_vec(),
        }
    }

    #[test]
    fn bars_hold_what_falls_into_them() {
        let boots = [distribution("linux", &[4.0, 4.1]), distribution("linux", &[4.2, 8.5])];
        let outline = outline(&[&boots[0], &boots[1]]);
        let wide = |octaves: f64| octaves.exp2();
        assert_eq!(outline[..3], [(4.0, 0.0), (4.0, 75.0), (wide(2.125), 75.0)]);
        assert_eq!(outline[outline.len() - 2..], [(wide(3.125), 25.0), (wide(3.125), 0.0)]);
        assert_eq!(outline.iter().map(|point| point.1).sum::<f64>(), 200.0);
        assert!(super::outline(&[&distribution("linux", &[])]).is_empty());
    }

    #[test]
    fn draws_with_and_without_linux() {
        let path = std::env::temp_dir().join(format!("topomem-latencies-{}.svg", std::process::id()));
        let both = [distribution("linux", &[9.0, 11.0]), distribution("topomem", &[5.0, 6.0])];
        for distributions in [&both[..], &both[1..], &[]] {
            draw(distributions, "somewhere", &path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains("somewhere"));
            let is_named = |one: &&Distribution| text.contains(&format!("{}, N = 1 x 2000", one.subject));
            assert_eq!(distributions.iter().filter(is_named).count(), distributions.len());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
