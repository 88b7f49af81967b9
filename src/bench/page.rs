//! A report as one page of HTML that needs nothing else: no script, no font, no image, no address.
//!
//! Charts show, tables say. Below them stands each figure that the JSON has, so that the page alone can be kept.
//!
//! Written so that it is well-formed XML, too: every element is closed.

use super::chart::Chart;
use super::host::Host;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

/// What a page shows.
pub(super) struct Page {
    pub title: String,
    pub lead: String,
    pub host: Host,
    /// How the disk did, in words.
    pub disk: String,
    pub sections: Vec<Section>,
    /// What a reader must know before comparing anything.
    pub notes: Vec<&'static str>,
}

/// A part of it.
pub(super) struct Section {
    pub title: &'static str,
    pub text: String,
    pub charts: Vec<Chart>,
    pub tables: Vec<Table>,
}

/// Figures, rounded for reading. The first column names them.
pub(super) struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Of every measurement.
const NOTES: [&str; 3] = [
    "Client and servers share the machine's cores, so calls a second depend on the client too. The server's own CPU does not.",
    "Only ratios of one run and CPU of the server can be compared. Two runs differ by what else the machine did; on a shared one by a \
     quarter and more.",
    "This measures and does not judge: where a target stands beside a figure, it is the project's own.",
];

const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fcfcfa;--ink:#1c1f23;--soft:#5d6570;--line:#dfe1e4;--a:#0b6e8f;--b:#b9803a;--c:#6a5a9e}\
@media (prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e6e8ea;--soft:#9aa3ad;--line:#31363d;--a:#4fb3d3;--b:#dba765;--c:#a899dd}}\
*{box-sizing:border-box}\
body{margin:0 auto;padding:3rem 1.25rem 5rem;max-width:60rem;background:var(--paper);color:var(--ink);\
font:16px/1.55 system-ui,sans-serif}\
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem}h2{font-size:1.25rem;margin:3rem 0 .5rem}\
p{max-width:44rem;margin:.5rem 0}.lead,figcaption,.soft{color:var(--soft)}\
figure{margin:1.5rem 0}figcaption{font-size:.875rem;margin-bottom:.35rem}\
svg{display:block;width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}\
svg .soft{fill:var(--soft)}svg .line{stroke:var(--line)}\
.s0{fill:var(--a);stroke:var(--a)}.s1{fill:var(--b);stroke:var(--b)}.s2{fill:var(--c);stroke:var(--c)}\
polyline{fill:none!important;stroke-width:2;stroke-linejoin:round}rect,circle{stroke:none!important}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;margin:1rem 0;font-variant-numeric:tabular-nums}\
th,td{padding:.3rem .9rem .3rem 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th:first-child,td:first-child{text-align:left}th{font-weight:600;color:var(--soft)}td.what{text-align:left;white-space:normal}\
summary{cursor:pointer;color:var(--soft)}li{max-width:44rem;margin:.35rem 0}\
@media print{body{padding:0}details{display:none}}";

/// The page, with every figure of `data` below.
pub(super) fn html(page: &Page, data: &impl Serialize) -> Result<String, serde_json::Error> {
    let data = serde_json::to_value(data)?;
    let mut out = String::with_capacity(1 << 16);
    let title = escaped(&page.title);
    // Writing to a string can't fail.
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"lead\">{}</p>\n",
        escaped(&page.lead)
    );
    for section in &page.sections {
        add_section(&mut out, section);
    }
    add_host(&mut out, page);
    let _ = writeln!(out, "<h2>How to read this</h2>\n<ul>");
    for note in page.notes.iter().chain(&NOTES) {
        let _ = writeln!(out, "<li>{}</li>", escaped(note));
    }
    let _ = writeln!(
        out,
        "</ul>\n<h2>Every figure</h2>\n<p>As in the JSON of the same run, unrounded, each round by itself.</p>"
    );
    let _ = writeln!(out, "<details>\n<summary>Show all</summary>\n<div class=\"wide\"><table>");
    add_leaves(&mut out, "", &data);
    out.push_str("</table></div>\n</details>\n</body>\n</html>\n");
    Ok(out)
}

fn add_section(out: &mut String, section: &Section) {
    let _ = writeln!(out, "<h2>{}</h2>", escaped(section.title));
    if !section.text.is_empty() {
        let _ = writeln!(out, "<p>{}</p>", escaped(&section.text));
    }
    for chart in &section.charts {
        chart.write(out);
    }
    for table in &section.tables {
        out.push_str("<div class=\"wide\"><table>\n<tr>");
        for name in &table.head {
            let _ = write!(out, "<th>{}</th>", escaped(name));
        }
        out.push_str("</tr>\n");
        for row in &table.rows {
            out.push_str("<tr>");
            for figure in row {
                let _ = write!(out, "<td>{}</td>", escaped(figure));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table></div>\n");
    }
}

fn add_host(out: &mut String, page: &Page) {
    let mut rows = page.host.rows();
    rows.push(["4 KiB appended and synced".to_owned(), page.disk.clone()]);
    out.push_str("<h2>The machine</h2>\n<table>\n");
    for [name, what] in &rows {
        let _ = writeln!(out, "<tr><td>{}</td><td class=\"what\">{}</td></tr>", escaped(name), escaped(what));
    }
    out.push_str("</table>\n");
}

/// A row for everything in it that is a number, a word or yes and no.
fn add_leaves(out: &mut String, path: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                add_leaves(out, &format!("{path}{dot}{name}"), value);
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter().enumerate() {
                add_leaves(out, &format!("{path}[{number}]"), value);
            }
        }
        leaf => {
            let text = leaf.as_str().map_or_else(|| leaf.to_string(), str::to_owned);
            let _ = writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", escaped(path), escaped(&text));
        }
    }
}

/// As text or as an attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

impl Table {
    pub(super) fn new(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        Self { head: head.iter().map(|name| (*name).to_owned()).collect(), rows: rows.into_iter().collect() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::chart::{Bars, Lines};
    use super::*;
    use serde_json::json;

    /// Every element is closed in its turn, every attribute quoted, every ampersand an entity; nothing leads outside, and
    /// each leaf of the data stands in a row of its own with its value as JSON writes it.
    pub(in crate::bench) fn check(html: &str, data: &Value) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = html.strip_prefix("<!DOCTYPE html>\n").expect("a document of today");
        while let Some(begin) = rest.find('<') {
            let (text, tag) = rest.split_at(begin);
            assert!(!text.contains('>'), "a bare > in {text:?}");
            let end = tag.find('>').expect("a tag ends");
            let inside = &tag[1..end];
            rest = &tag[end + 1..];
            if let Some(name) = inside.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed in turn");
            } else {
                let name = inside.split([' ', '/']).next().unwrap();
                assert!(name.chars().all(|letter| letter.is_ascii_alphanumeric()), "{inside}");
                let parts: Vec<&str> = inside.split('"').collect();
                assert!(parts.len() % 2 == 1, "{inside}");
                for (place, unquoted) in parts.iter().enumerate().step_by(2) {
                    let named = usize::from(place + 1 < parts.len());
                    let is_name = unquoted.matches('=').count() == named && (named == 0 || unquoted.ends_with('='));
                    assert!(is_name, "{inside}");
                }
                if !inside.ends_with('/') {
                    open.push(name);
                }
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
        for part in html.split('&').skip(1) {
            let entity = part.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot", "#39"].contains(&entity), "&{entity}");
        }
        for outside in
            ["<script", "<link", "<img", "<iframe", "href", "src=", "url(", "@import", "://", "onload", "NaN", "inf "]
        {
            assert!(!html.contains(outside), "{outside}");
        }
        let mut count = 0;
        each_leaf("", data, &mut |path, leaf| {
            let row = format!("<tr><td>{}</td><td>{}</td></tr>", escaped(path), escaped(leaf));
            assert!(html.contains(&row), "{row}");
            count += 1;
        });
        assert!(count > 0);
    }

    /// Written anew, so that a mistake in how the page walks its data is seen.
    fn each_leaf(path: &str, value: &Value, see: &mut dyn FnMut(&str, &str)) {
        let mut left = vec![(path.to_owned(), value)];
        while let Some((path, value)) = left.pop() {
            if let Some(fields) = value.as_object() {
                let name = |name: &String| if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                left.extend(fields.iter().map(|(field, value)| (name(field), value)));
            } else if let Some(items) = value.as_array() {
                left.extend(items.iter().enumerate().map(|(number, value)| (format!("{path}[{number}]"), value)));
            } else {
                see(&path, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
        }
    }

    pub(in crate::bench) fn sample(charts: Vec<Chart>) -> Page {
        Page {
            title: "A & B <sample>".to_owned(),
            lead: "\"quoted\"".to_owned(),
            host: Host::look(std::path::Path::new("/")),
            disk: "p50 1 µs".to_owned(),
            sections: vec![Section {
                title: "One",
                text: "1 < 2".to_owned(),
                charts,
                tables: vec![Table::new(&["what", "how much"], [vec!["x".to_owned(), "1,234".to_owned()]])],
            }],
            notes: vec!["It's a sample."],
        }
    }

    #[test]
    fn a_page_is_well_formed_leads_nowhere_and_has_every_figure() {
        let data =
            json!({"version": "0 & 1", "rows": [{"p50_us": 1.25, "rounds": [1, 2.5]}, {"p50_us": null}], "ok": true});
        let bars = Bars {
            title: "p50 < p99".to_owned(),
            series: vec!["vault", "floor"],
            groups: vec![("a".to_owned(), vec![1.0, 0.0]), ("b & c".to_owned(), vec![f64::NAN, 1e6])],
            logarithmic: true,
        };
        let lines = Lines {
            title: "over time".to_owned(),
            x: "tokens",
            series: vec![("one", vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)]), ("none", vec![])],
        };
        let page = html(&sample(vec![Chart::Bars(bars), Chart::Lines(lines)]), &data).unwrap();
        check(&page, &data);
    }

    #[test]
    fn the_check_of_a_page_finds_what_it_looks_for() {
        let data = json!({"a": 1});
        let good = html(&sample(Vec::new()), &data).unwrap();
        let fails = |page: String| std::panic::catch_unwind(|| check(&page, &json!({"a": 1}))).is_err();
        assert!(!fails(good.clone()));
        assert!(fails(good.replace("</p>", "")));
        assert!(fails(good.replace("<td>1</td>", "<td>2</td>")));
        assert!(fails(good.replace("<h1>", "<h1><script>x</script>")));
        assert!(fails(good.replace("1 &lt; 2", "1 &nope; 2")));
        assert!(fails(good.replace("lang=\"en\"", "lang=en")));
    }
}
