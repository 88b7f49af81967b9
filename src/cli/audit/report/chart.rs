//! Charts as SVG inside a page: no scripts, no styles of their own, every text escaped. Colours are the page's classes.
//!
//! Each has a title and a description for those who hear the page, and each bar its numbers for those who point at it.

use std::fmt::Write;

use super::html::escaped;
use super::names::{day, grouped, step};
use crate::event::report::{Point, Rate};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 14.0;
const PLOT: f64 = 190.0;
const BELOW: f64 = 28.0;
/// Labels below a chart, at most about so many.
const LABELS: usize = 8;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// One colour of a stack: its class, what it counts, and how.
pub(super) type Series = (&'static str, &'static str, fn(&Point) -> u64);

/// What is in every chart: an id of its own on the page, and words.
pub(super) struct Words<'a> {
    pub id: &'a str,
    pub title: &'a str,
    pub description: &'a str,
}

/// Stacked bars along time.
pub(super) fn over_time(words: &Words<'_>, points: &[Point], series: &[Series], point_seconds: u64) -> String {
    let total = |point: &Point| series.iter().map(|(_, _, of)| of(point)).fold(0, u64::saturating_add);
    let top = round_top(points.iter().map(total).max().unwrap_or_default());
    let hours = point_seconds < 86_400;
    let mut svg = begin(words, WIDTH, TOP + PLOT + BELOW);
    grid(&mut svg, top);
    let slot = (WIDTH - LEFT - RIGHT) / points.len().max(1) as f64;
    let bar = (slot * 0.78).clamp(0.5, 48.0);
    for (place, point) in points.iter().enumerate() {
        let x = LEFT + slot * place as f64 + (slot - bar) / 2.0;
        let counts: Vec<String> = series.iter().map(|(_, name, of)| format!("{} {name}", grouped(of(point)))).collect();
        let _ = write!(svg, "<g><title>{}, {}</title>", day(point.begin, hours), escaped(&counts.join(", ")));
        // Behind the bar, so that the words come up wherever one points, and for an empty time too.
        let _ = write!(svg, r#"<rect class="hit" x="{x:.1}" y="{TOP}" width="{bar:.1}" height="{PLOT}"/>"#);
        let mut y = TOP + PLOT;
        for (class, _, of) in series {
            let height = of(point) as f64 / top as f64 * PLOT;
            if height > 0.0 {
                y -= height;
                let _ = write!(
                    svg,
                    r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{bar:.1}" height="{height:.1}"/>"#
                );
            }
        }
        svg.push_str("</g>");
        if place.is_multiple_of(points.len().div_ceil(LABELS).max(1)) {
            let (middle, below) = (x + bar / 2.0, TOP + PLOT + 19.0);
            let label = day(point.begin, hours);
            let _ =
                write!(svg, r#"<text class="axis" text-anchor="middle" x="{middle:.1}" y="{below}">{label}</text>"#);
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Lines at round numbers, with their numbers.
fn grid(svg: &mut String, top: u64) {
    let parts = [4, 5, 2].into_iter().find(|parts| top.is_multiple_of(*parts)).unwrap_or(1);
    for part in 0..=parts {
        let y = TOP + PLOT - PLOT * part as f64 / parts as f64;
        let (end, number, text_y, text_x) = (WIDTH - RIGHT, grouped(top / parts * part), y + 4.0, LEFT - 8.0);
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{y:.1}" y2="{y:.1}"/>"#);
        let _ = write!(svg, r#"<text class="axis" text-anchor="end" x="{text_x}" y="{text_y:.1}">{number}</text>"#);
    }
}

/// One bar for each name, full and masked one behind the other.
pub(super) fn by_name(words: &Words<'_>, rows: &[(&str, u64, u64)]) -> String {
    const ROW: f64 = 30.0;
    const NAME: f64 = 176.0;
    const NUMBER: f64 = 76.0;
    const WIDE: f64 = 470.0;
    let most = rows.iter().map(|(_, full, masked)| full.saturating_add(*masked)).max().unwrap_or_default().max(1);
    let mut svg = begin(words, WIDE, ROW * rows.len() as f64);
    let room = WIDE - NAME - NUMBER;
    for (place, (name, full, masked)) in rows.iter().enumerate() {
        let y = ROW * place as f64;
        let [full_width, masked_width] = [full, masked].map(|number| *number as f64 / most as f64 * room);
        let name = escaped(name);
        let (text_y, bar_y, number_x) = (y + 19.0, y + 6.0, NAME + full_width + masked_width + 8.0);
        let _ = write!(svg, "<g><title>{name}: {} in full, {} masked</title>", grouped(*full), grouped(*masked));
        let (short, end) = (escaped(&shortened(name_of(rows, place))), NAME - 10.0);
        let _ = write!(svg, r#"<text class="name" text-anchor="end" x="{end}" y="{text_y}">{short}</text>"#);
        let _ = write!(svg, r#"<rect class="full" x="{NAME}" y="{bar_y}" width="{full_width:.1}" height="18"/>"#);
        let behind = NAME + full_width;
        let _ =
            write!(svg, r#"<rect class="masked" x="{behind:.1}" y="{bar_y}" width="{masked_width:.1}" height="18"/>"#);
        let number = grouped(full.saturating_add(*masked));
        let _ = write!(svg, r#"<text class="number" x="{number_x:.1}" y="{text_y}">{number}</text></g>"#);
    }
    svg.push_str("</svg>");
    svg
}

fn name_of<'a>(rows: &[(&'a str, u64, u64)], place: usize) -> &'a str {
    rows[place].0
}

/// As much of a name as has room; the whole one comes up where one points.
fn shortened(name: &str) -> String {
    const AT_MOST: usize = 23;
    if name.chars().count() <= AT_MOST {
        return name.to_owned();
    }
    // The end tells names apart: their beginnings are folders.
    let end: String = name.chars().skip(name.chars().count() - (AT_MOST - 1)).collect();
    format!("…{end}")
}

/// A field for each hour of the week, darker where more left.
pub(super) fn week(words: &Words<'_>, week: &[[u64; 24]; 7]) -> String {
    const CELL: f64 = 37.0;
    const HIGH: f64 = 24.0;
    const ABOVE: f64 = 20.0;
    let most = week.iter().flatten().copied().max().unwrap_or_default().max(1);
    let mut svg = begin(words, WIDTH, ABOVE + HIGH * 7.0 + 2.0);
    for hour in (0..24).step_by(3) {
        let x = LEFT + CELL * f64::from(hour);
        let _ = write!(svg, r#"<text class="axis" x="{x}" y="13">{hour:02}:00</text>"#);
    }
    for ((weekday, hours), name) in week.iter().enumerate().zip(DAYS) {
        let y = ABOVE + HIGH * weekday as f64;
        let (text_x, text_y) = (LEFT - 10.0, y + 16.0);
        let _ = write!(svg, r#"<text class="axis" text-anchor="end" x="{text_x}" y="{text_y}">{name}</text>"#);
        for (hour, values) in hours.iter().enumerate() {
            // Five shades, by the square root: few values shall be seen beside many.
            let share = (*values as f64 / most as f64).sqrt();
            let shade = [0.0, 0.2, 0.4, 0.6, 0.8].iter().filter(|least| share > **least).count();
            let (x, wide, high) = (LEFT + CELL * hour as f64, CELL - 3.0, HIGH - 3.0);
            let _ = write!(svg, "<g><title>{name} {hour:02}:00, {} values</title>", grouped(*values));
            let _ = write!(
                svg,
                r#"<rect class="shade{shade}" x="{x}" y="{y}" width="{wide}" height="{high}" rx="3"/></g>"#
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

/// The hours about an unusual one, with what would still have been usual.
pub(super) fn pace(words: &Words<'_>, rate: &Rate) -> String {
    const WIDE: f64 = 470.0;
    const HIGH: f64 = 84.0;
    let most = rate.around.iter().copied().max().unwrap_or_default().max(rate.threshold).max(1);
    let mut svg = begin(words, WIDE, HIGH + 2.0);
    let slot = WIDE / rate.around.len().max(1) as f64;
    let bar = (slot * 0.8).clamp(0.5, 16.0);
    for (place, values) in rate.around.iter().enumerate() {
        let (x, height) = (slot * place as f64, *values as f64 / most as f64 * HIGH);
        let class = if place == rate.around_place { "denied" } else { "full" };
        let y = HIGH - height;
        let _ = write!(svg, "<g><title>{} values</title>", grouped(*values));
        let _ =
            write!(svg, r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{bar:.1}" height="{height:.1}"/></g>"#);
    }
    let y = HIGH - rate.threshold as f64 / most as f64 * HIGH;
    let _ = write!(svg, r#"<line class="threshold" x1="0" x2="{WIDE}" y1="{y:.1}" y2="{y:.1}"/>"#);
    let _ = write!(svg, r#"<line class="grid" x1="0" x2="{WIDE}" y1="{HIGH}" y2="{HIGH}"/></svg>"#);
    svg
}

/// What a chart along time says, for those who do not see it.
pub(super) fn in_words(points: &[Point], series: &[Series], point_seconds: u64) -> String {
    let most = |(_, name, of): &Series| {
        let point = points.iter().max_by_key(|point| of(point))?;
        let at = day(point.begin, point_seconds < 86_400);
        Some(format!("{name}: at most {} in one {}, {at}", grouped(of(point)), step(point_seconds)))
    };
    series.iter().filter_map(most).collect::<Vec<_>>().join("; ")
}

fn begin(words: &Words<'_>, width: f64, height: f64) -> String {
    let Words { id, title, description } = words;
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"{id}-title {id}-words\">\
         <title id=\"{id}-title\">{}</title><desc id=\"{id}-words\">{}</desc>",
        escaped(title),
        escaped(description)
    )
}

/// The next number above `most` at which a scale may end.
fn round_top(most: u64) -> u64 {
    let mut ten = 1_u64;
    loop {
        let ends = [1, 2, 4, 5, 8].map(|factor| ten.saturating_mul(factor));
        if let Some(end) = ends.into_iter().find(|end| *end >= most) {
            return end;
        }
        ten = ten.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        let cases = [(0, 1), (1, 1), (3, 4), (6, 8), (9, 10), (11, 20), (99, 100), (4_001, 5_000), (8_001, 10_000)];
        for (most, end) in cases {
            assert_eq!(round_top(most), end, "{most}");
        }
        assert_eq!(round_top(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        assert_eq!(shortened("payments"), "payments");
        let long = shortened("region/eu-central-1/team/payments-worker");
        assert_eq!(long.chars().count(), 23);
        assert!(long.starts_with('…') && long.ends_with("payments-worker"), "{long}");
    }
}
