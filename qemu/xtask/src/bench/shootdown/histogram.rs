//! How long changes take, as curves.

use std::io;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::Error;
use crate::record::Distribution;

/// What is drawn, with what it is called there.
const PANELS: [(&str, &str); 2] =
    [("protect_wait", "a page becomes read-only"), ("unmap_wait", "a page is unmapped")];

const SUBJECTS: [(&str, RGBColor); 2] =
    [("linux", RGBColor(0xc6, 0x28, 0x28)), ("topomem", RGBColor(0x15, 0x65, 0xc0))];

/// Times are drawn where two CPUs have a processor of the host each.
const CPUS: u32 = 2;
const SIZE: (u32, u32) = (960, 330);
/// Bars from one time to twice that time.
const PER_OCTAVE: f64 = 8.0;

type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;

/// Draws the distributions as an SVG file, a panel for each case.
pub(super) fn draw(distributions: &[Distribution], path: &Path) -> Result<(), Error> {
    try_draw(distributions, path)
        .map_err(|error| Error::Plot { path: path.to_owned(), reason: error.to_string() })
}

fn try_draw(distributions: &[Distribution], path: &Path) -> Drawn {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (case, title)) in root.split_evenly((1, PANELS.len())).iter().zip(PANELS) {
        let curves = SUBJECTS.map(|(subject, colour)| {
            let of = |one: &&Distribution| one.cpus == CPUS && one.case == case && one.subject == subject;
            (subject, colour, outline(distributions.iter().filter(of)))
        });
        panel(area, title, &curves)?;
    }
    root.present()
}

type Curve = (&'static str, RGBColor, Vec<(f64, f64)>);

fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, curves: &[Curve]) -> Drawn {
    let points = || curves.iter().flat_map(|(.., points)| points);
    let shortest = points().map(|point| point.0).fold(f64::INFINITY, f64::min).min(1000.0);
    let longest = points().map(|point| point.0).fold(shortest * 2.0, f64::max);
    let highest = points().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}, and the other of {CPUS} CPUs has forgotten it"), ("sans-serif", 14))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d((shortest..longest).log_scale().base(2.0), 0.0..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("microseconds")
        .y_desc("% of the changes")
        .x_labels(8)
        .x_label_formatter(&|time| format!("{time:.0}"))
        .y_labels(6)
        .y_label_formatter(&|share| format!("{share:.0}"))
        .draw()?;
    for &(subject, colour, ref points) in curves.iter().filter(|(.., points)| !points.is_empty()) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(subject)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()
}

/// The top of a histogram with bars that are equally wide on a logarithmic scale. Each percentile of each boot
/// stands for as many samples as any other.
fn outline<'d>(distributions: impl Iterator<Item = &'d Distribution>) -> Vec<(f64, f64)> {
    let times = distributions.flat_map(|distribution| distribution.percentiles.iter().copied());
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
            percentiles: percentiles.to_vec(),
        }
    }

    #[test]
    fn bars_hold_what_falls_into_them() {
        let boots = [distribution("linux", &[4.0, 4.1]), distribution("linux", &[4.2, 8.5])];
        let outline = outline(boots.iter());
        let wide = |octaves: f64| octaves.exp2();
        assert_eq!(outline[..3], [(4.0, 0.0), (4.0, 75.0), (wide(2.125), 75.0)]);
        assert_eq!(outline[outline.len() - 2..], [(wide(3.125), 25.0), (wide(3.125), 0.0)]);
        assert_eq!(outline.iter().map(|point| point.1).sum::<f64>(), 200.0);
        assert!(super::outline([distribution("linux", &[])].iter()).is_empty());
    }

    #[test]
    fn draws_with_and_without_linux() {
        let path = std::env::temp_dir().join(format!("topomem-latencies-{}.svg", std::process::id()));
        let both = [distribution("linux", &[9.0, 11.0]), distribution("topomem", &[5.0, 6.0])];
        for distributions in [&both[..], &both[1..], &[]] {
            draw(distributions, &path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let named = distributions.iter().filter(|one| text.contains(&one.subject)).count();
            assert_eq!(named, distributions.len());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
