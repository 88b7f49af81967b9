//! Charts, as SVG inside a page. Colours come from the page's style, so they follow light and dark.

use super::figures::{readable, whole};
use super::page::escaped;
use std::fmt::Write;

/// Numbers of pixels, in the chart's own measure: it is drawn as wide as the page.
const WIDTH: f64 = 900.0;
/// What stands left of bars: as wide as the longest needs, within these.
const LABELS: std::ops::RangeInclusive<f64> = 120.0..=420.0;
const LETTER: f64 = 6.6;
const FIGURES: f64 = 80.0;
const BAR: f64 = 14.0;
const BETWEEN: f64 = 12.0;
const PLOT_HEIGHT: f64 = 240.0;
const MARGIN: f64 = 64.0;
/// Classes of the style, one for each series.
const COLOURS: usize = 3;
/// Lines across a plot.
const GRID: usize = 4;

pub(super) enum Chart {
    Bars(Bars),
    Lines(Lines),
}

/// For each of the groups a bar of each of the series.
pub(super) struct Bars {
    pub title: String,
    pub series: Vec<&'static str>,
    pub groups: Vec<(String, Vec<f64>)>,
    /// For figures some of which are a hundred times the others.
    pub logarithmic: bool,
}

/// A line for each of the series.
pub(super) struct Lines {
    pub title: String,
    /// What goes to the right.
    pub x: &'static str,
    pub series: Vec<(&'static str, Vec<(f64, f64)>)>,
}

impl Chart {
    pub(super) fn write(&self, out: &mut String) {
        let title = match self {
            Self::Bars(bars) => &bars.title,
            Self::Lines(lines) => &lines.title,
        };
        let _ = writeln!(out, "<figure>\n<figcaption>{}</figcaption>", escaped(title));
        match self {
            Self::Bars(bars) => bars.write(out),
            Self::Lines(lines) => lines.write(out),
        }
        out.push_str("</figure>\n");
    }
}

impl Bars {
    fn write(&self, out: &mut String) {
        let top = legend_height(self.series.len());
        let group = self.series.len() as f64 * BAR + BETWEEN;
        let height = top + group * self.groups.len() as f64;
        let labels = self.labels();
        begin(out, height, &self.title);
        legend(out, labels, &self.series);
        let scale = Scale::of(self.groups.iter().flat_map(|(_, figures)| figures).copied(), self.logarithmic);
        for (number, (name, figures)) in self.groups.iter().enumerate() {
            let y = top + number as f64 * group;
            let middle = y + (group - BETWEEN) / 2.0 + 4.0;
            text(out, labels - 10.0, middle, "end", "", name);
            for (series, figure) in figures.iter().enumerate() {
                let y = y + series as f64 * BAR;
                let width = scale.part(*figure) * (WIDTH - labels - FIGURES);
                let class = series % COLOURS;
                let (x, bar) = (labels, BAR - 2.0);
                let _ = writeln!(
                    out,
                    "<rect class=\"s{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{bar:.1}\" rx=\"1.5\" />"
                );
                text(out, labels + width + 6.0, y + BAR - 4.0, "start", "soft", &readable(*figure));
            }
        }
        out.push_str("</svg>\n");
    }

    fn labels(&self) -> f64 {
        let longest = self.groups.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        (longest as f64 * LETTER + 16.0).clamp(*LABELS.start(), *LABELS.end())
    }
}

impl Lines {
    fn write(&self, out: &mut String) {
        let names: Vec<&str> = self.series.iter().map(|(name, _)| *name).collect();
        let top = legend_height(names.len()).max(12.0);
        let height = top + PLOT_HEIGHT + 40.0;
        begin(out, height, &self.title);
        legend(out, MARGIN, &names);
        let points =
            || self.series.iter().flat_map(|(_, points)| points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let across = Scale::of(points().map(|(x, _)| *x), false);
        let up = Scale::of(points().map(|(_, y)| *y), false).rounded();
        for step in 0..=GRID {
            let part = step as f64 / GRID as f64;
            let (y, x) = (top + PLOT_HEIGHT * (1.0 - part), MARGIN + (WIDTH - MARGIN - 20.0) * part);
            let right = WIDTH - 20.0;
            let _ = writeln!(
                out,
                "<line class=\"line\" x1=\"{MARGIN:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" />"
            );
            text(out, MARGIN - 8.0, y + 4.0, "end", "soft", &readable(up.most * part));
            text(out, x, top + PLOT_HEIGHT + 18.0, "middle", "soft", &readable(across.most * part));
        }
        text(out, f64::midpoint(WIDTH, MARGIN), height - 4.0, "middle", "soft", self.x);
        for (number, (_, points)) in self.series.iter().enumerate() {
            let place = |(x, y): &(f64, f64)| {
                let x = MARGIN + across.part(*x) * (WIDTH - MARGIN - 20.0);
                let y = top + PLOT_HEIGHT * (1.0 - up.part(*y));
                format!("{x:.1},{y:.1}")
            };
            let finite = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
            let path: Vec<String> = finite.map(place).collect();
            let _ = writeln!(out, "<polyline class=\"s{}\" points=\"{}\" />", number % COLOURS, path.join(" "));
        }
        out.push_str("</svg>\n");
    }
}

/// From a figure to a part of the longest.
struct Scale {
    most: f64,
    /// Where a logarithmic one begins.
    least: Option<f64>,
}

impl Scale {
    fn of(figures: impl Iterator<Item = f64> + Clone, logarithmic: bool) -> Self {
        let finite = figures.filter(|figure| figure.is_finite() && *figure > 0.0);
        let most = finite.clone().fold(0.0, f64::max);
        let least = finite.fold(f64::INFINITY, f64::min);
        // A decade below the least, so that this one can be seen.
        let least = (logarithmic && least.is_finite()).then(|| 10_f64.powf(least.log10().floor() - 0.3));
        Self { most, least }
    }

    /// Up to a number that is easily divided by four.
    fn rounded(self) -> Self {
        if self.most <= 0.0 {
            return self;
        }
        let unit = 10_f64.powf(self.most.log10().floor());
        let most = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].into_iter().map(|step| step * unit).find(|most| *most >= self.most);
        Self { most: most.unwrap_or(self.most), ..self }
    }

    /// 0 to 1; 0 for what is no number.
    fn part(&self, figure: f64) -> f64 {
        if !figure.is_finite() || figure <= 0.0 || self.most <= 0.0 {
            return 0.0;
        }
        let part = match self.least {
            Some(least) => (figure / least).ln() / (self.most / least).ln(),
            None => figure / self.most,
        };
        part.clamp(0.0, 1.0)
    }
}

fn begin(out: &mut String, height: f64, title: &str) {
    let (width, height, title) = (whole(WIDTH), whole(height.ceil()), escaped(title));
    let _ = writeln!(out, "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">");
}

fn legend_height(series: usize) -> f64 {
    if series > 1 { 26.0 } else { 0.0 }
}

/// One series needs none: the title says what it is.
fn legend(out: &mut String, left: f64, series: &[&str]) {
    if series.len() < 2 {
        return;
    }
    for (number, name) in series.iter().enumerate() {
        let x = left + number as f64 * 160.0;
        let class = number % COLOURS;
        let _ = writeln!(out, "<circle class=\"s{class}\" cx=\"{:.1}\" cy=\"9.0\" r=\"5\" />", x + 5.0);
        text(out, x + 16.0, 13.0, "start", "", name);
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, class: &str, what: &str) {
    let what = escaped(what);
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_figure() {
        let figures = [1.0, 50.0, 100.0, f64::NAN];
        let plain = Scale::of(figures.into_iter(), false);
        assert!((plain.part(50.0) - 0.5).abs() < 1e-9 && (plain.part(100.0) - 1.0).abs() < 1e-9);
        let logarithmic = Scale::of(figures.into_iter(), true);
        let [one, fifty, hundred] = [1.0, 50.0, 100.0].map(|figure| logarithmic.part(figure));
        assert!(0.0 < one && one < fifty && fifty < hundred && (hundred - 1.0).abs() < 1e-9, "{one} {fifty} {hundred}");
        for nothing in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(plain.part(nothing).abs() < 1e-9 && logarithmic.part(nothing).abs() < 1e-9);
        }
        assert!(Scale::of(std::iter::empty(), true).part(1.0).abs() < 1e-9);
        for (most, rounded) in [(0.0, 0.0), (1.0, 1.0), (55.4, 60.0), (90.6, 100.0), (0.012, 0.02), (3_999.0, 4_000.0)]
        {
            assert!((Scale::of([most].into_iter(), false).rounded().most - rounded).abs() < 1e-9, "{most}");
        }
    }

    #[test]
    fn every_figure_stands_beside_its_bar() {
        let bars = Bars {
            title: "t".to_owned(),
            series: vec!["vault", "floor"],
            groups: vec![("one".to_owned(), vec![1234.0, 0.5]), ("two".to_owned(), vec![7.0, 8.0])],
            logarithmic: false,
        };
        let mut out = String::new();
        Chart::Bars(bars).write(&mut out);
        assert_eq!(out.matches("<rect").count(), 4);
        for text in [">1,234<", ">0.50<", ">7.00<", ">8.00<", ">one<", ">two<", ">vault<", ">floor<"] {
            assert!(out.contains(text), "{text} in {out}");
        }
    }
}
