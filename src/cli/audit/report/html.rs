//! The report as one page that needs nothing else: no scripts, nothing from the network, nothing that a caller's text could
//! turn into markup.
//!
//! Invariant: whatever stands in an event goes through [`escaped`]. The page's policy forbids everything but the one style
//! that it carries, by its hash: even what slipped through could load and run nothing.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::chart::{self, Series, Words};
use super::names::{Names, grouped, minute, step, sums, word};
use super::text::limits;
use crate::clock::Timestamp;
use crate::config::harmless;
use crate::event::report::{Row, Summary, Unusual};

const STYLE: &str = include_str!("page.css");
/// Rows of a table beyond this are for a program.
const ROWS_SHOWN: usize = 500;
/// Names in a chart.
const NAMES_SHOWN: usize = 10;
/// Unusual hours that get a chart.
const RATES_DRAWN: usize = 6;
const RELEASED: [Series; 2] = [("full", "in full", |point| point.full), ("masked", "masked", |point| point.masked)];
const REFUSED: [Series; 2] = [("denied", "denied", |point| point.denied), ("failed", "failed", |point| point.failed)];

/// `text` as it may stand between tags and in quoted attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in harmless(text).chars() {
        match character {
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

/// The whole page.
pub(super) fn page(summary: &Summary, now: Timestamp) -> String {
    let names = Names::of(summary);
    let mut page = head(summary, &names);
    tiles(&mut page, summary);
    unusual(&mut page, &summary.unusual, &names);
    let title = ("Values that left", "Values that callers got back for tokens, in full and masked.");
    course(&mut page, "released", title, summary, &RELEASED);
    shares(&mut page, summary, &names);
    week(&mut page, summary);
    let title = ("Refusals", "Calls that policy denied, connections that were refused, and calls that failed.");
    course(&mut page, "refused", title, summary, &REFUSED);
    tables(&mut page, summary, &names);
    let _ = writeln!(
        page,
        "<footer><p>Made {} UTC by cloakroom {} from {} events of the log. The same figures as data: \
         <code>cloakroom audit report --output json</code>. That the log is complete is proved by its checkpoints, not by \
         this page: <code>cloakroom audit verify</code>.</p></footer></main></body></html>",
        minute(now),
        env!("CARGO_PKG_VERSION"),
        grouped(summary.read.events)
    );
    page
}

fn head(summary: &Summary, names: &Names) -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let log = if summary.log_id.is_empty() { "no event".to_owned() } else { escaped(&summary.log_id) };
    let (since, until) = (minute(summary.since), minute(summary.until));
    let scope = match &summary.scope {
        Some(scope) => {
            format!("scope <code>{}</code>; questions to the log name no scope and are left out", escaped(scope))
        }
        None => "all scopes".to_owned(),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{hash}'; \
         base-uri 'none'; form-action 'none'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"referrer\" content=\"no-referrer\">\
         <title>Who saw what: {log}, {since} to {until}</title><style>{STYLE}</style></head><body><main><header>\
         <h1>Who saw what</h1><p>{since} to {until} UTC · {scope}</p><p>Log <code>{log}</code>"
    );
    if let (Some(first), Some(last)) = (summary.read.first_sequence, summary.read.last_sequence) {
        let events = grouped(summary.read.events);
        let _ = write!(page, " · {events} events, {} to {}", grouped(first), grouped(last));
    }
    page.push_str("</p>");
    if let Some(prefix) = names.prefix() {
        let _ = write!(page, "<p>Callers are of <code>{}</code> unless they are written in full.</p>", escaped(prefix));
    }
    if summary.folded_calls > 0 {
        let folded = grouped(summary.folded_calls);
        let _ =
            write!(page, "<p>{folded} calls stand in rows of (others): there were more names than are told apart.</p>");
    }
    page.push_str("</header>");
    page
}

fn tiles(page: &mut String, summary: &Summary) {
    let totals = &summary.totals;
    page.push_str("<dl class=\"tiles\">");
    for (class, name, number) in [
        ("t-full", "Values in full", totals.values_full),
        ("t-masked", "Values masked", totals.values_masked),
        ("t-denied", "Calls denied", totals.denied_calls),
        ("t-failed", "Calls failed", totals.failed_calls),
        ("t-other", "Items withheld", totals.items_withheld),
        ("t-other", "Tokens issued", totals.tokens_issued),
    ] {
        let _ = write!(page, "<div class=\"{class}\"><dt>{name}</dt><dd>{}</dd></div>", grouped(number));
    }
    page.push_str("</dl>");
}

fn unusual(page: &mut String, unusual: &Unusual, names: &Names) {
    let quiet = unusual.rates.is_empty() && unusual.newcomers.is_empty();
    let class = if quiet { "" } else { " class=\"alarm\"" };
    let _ = write!(page, "<section{class}><h2>Out of the ordinary</h2>");
    if quiet {
        page.push_str("<p>Nothing, by the rules below.</p>");
    }
    page.push_str("<div class=\"two\">");
    for (place, rate) in unusual.rates.iter().take(RATES_DRAWN).enumerate() {
        let (caller, values) = (names.caller(Some(&rate.caller)), grouped(rate.values));
        let title = format!("{caller}: {values} values in one hour");
        let (median, threshold) = (grouped(rate.median), grouped(rate.threshold));
        let description = format!(
            "{} UTC. Its median hour has {median}; more than {threshold} is unusual (dashed). One bar an hour, up to three \
             days before and one after.",
            minute(rate.hour)
        );
        let id = format!("rate{place}");
        let svg = chart::pace(&Words { id: &id, title: &title, description: &description }, rate);
        let (title, description) = (escaped(&title), escaped(&description));
        let _ = write!(page, "<figure><h3>{title}</h3><figcaption>{description}</figcaption>{svg}</figure>");
    }
    page.push_str("</div>");
    if unusual.rates_found > RATES_DRAWN as u64 {
        let more = grouped(unusual.rates_found - RATES_DRAWN as u64);
        let _ = write!(page, "<p>{more} more such hours stand in the JSON.</p>");
    }
    if !unusual.newcomers.is_empty() {
        page.push_str("<h3>New callers</h3><ul>");
        for new in &unusual.newcomers {
            let (caller, time) = (escaped(names.caller(Some(&new.caller))), minute(new.first_time));
            let _ = write!(page, "<li><code>{caller}</code>, first seen {time} UTC, {} calls</li>", grouped(new.calls));
        }
        page.push_str("</ul>");
    }
    page.push_str("<ul class=\"rules\">");
    let rules = [format!("Hours: {}.", unusual.rate_rule), format!("New callers: {}.", unusual.newcomer_rule)];
    for rule in rules.into_iter().chain(limits(unusual)) {
        let _ = write!(page, "<li>{}</li>", escaped(&rule));
    }
    page.push_str("</ul></section>");
}

fn legend(series: &[Series]) -> String {
    let key = |(class, name, _): &Series| format!("<i class=\"key k-{class}\"></i><span>{name}</span>");
    series.iter().map(key).collect()
}

/// A chart along time, and its figures.
fn course(page: &mut String, id: &str, (title, about): (&str, &str), summary: &Summary, series: &[Series; 2]) {
    let (points, seconds) = (&summary.points, summary.point_seconds);
    let _ = write!(page, "<section><h2>{title}</h2><p>{about}</p>");
    if points.is_empty() {
        page.push_str("<p>Nothing in this window.</p></section>");
        return;
    }
    let description = chart::in_words(points, series, seconds);
    let svg = chart::over_time(&Words { id, title, description: &description }, points, series, seconds);
    let (keys, step) = (legend(series), step(seconds));
    let _ = write!(page, "<figure><figcaption>{keys}one bar a {step}, UTC</figcaption>{svg}</figure>");
    let [(_, one, first), (_, other, second)] = series;
    let _ = write!(
        page,
        "<details><summary>The figures</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">From</th>\
         <th scope=\"col\" class=\"n\">{one}</th><th scope=\"col\" class=\"n\">{other}</th></tr></thead><tbody>"
    );
    for point in points {
        let (time, first, second) = (minute(point.begin), grouped(first(point)), grouped(second(point)));
        let _ = write!(
            page,
            "<tr><td class=\"t\">{time}</td><td class=\"n\">{first}</td><td class=\"n\">{second}</td></tr>"
        );
    }
    page.push_str("</tbody></table></div></details></section>");
}

/// Who, and what for.
fn shares(page: &mut String, summary: &Summary, names: &Names) {
    let callers = sums(&summary.releases, |row| names.caller(row.caller.as_deref()));
    let purposes = sums(&summary.releases, |row| word(row.word.as_deref()));
    if callers.is_empty() {
        return;
    }
    page.push_str("<section><h2>By whom and what for</h2><p>");
    page.push_str(&legend(&RELEASED));
    page.push_str("</p><div class=\"two\">");
    for (id, title, rows) in [("callers", "Callers", &callers), ("purposes", "Purposes", &purposes)] {
        let shown = &rows[..rows.len().min(NAMES_SHOWN)];
        let words: Vec<String> = shown
            .iter()
            .map(|(name, full, masked)| format!("{name}: {}", grouped(full.saturating_add(*masked))))
            .collect();
        let svg = chart::by_name(&Words { id, title, description: &words.join("; ") }, shown);
        let more = match rows.len() - shown.len() {
            0 => String::new(),
            more => format!("<figcaption>and {more} more, in the table below</figcaption>"),
        };
        let _ = write!(page, "<figure><h3>{title}</h3>{svg}{more}</figure>");
    }
    page.push_str("</div></section>");
}

fn week(page: &mut String, summary: &Summary) {
    if summary.week.iter().flatten().all(|values| *values == 0) {
        return;
    }
    let about = "Values that left, by weekday and hour of the day, UTC. The stronger the colour, the more.";
    let svg = chart::week(&Words { id: "week", title: "When values leave", description: about }, &summary.week);
    let _ = write!(page, "<section><h2>When values leave</h2><p>{about}</p><figure>{svg}</figure>");
    page.push_str(
        "<details><summary>The figures</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">Hour</th>",
    );
    let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    for name in days {
        let _ = write!(page, "<th scope=\"col\" class=\"n\">{name}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for hour in 0..24 {
        let _ = write!(page, "<tr><td class=\"t\">{hour:02}:00</td>");
        for day in &summary.week {
            let _ = write!(page, "<td class=\"n\">{}</td>", grouped(day[hour]));
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div></details></section>");
}

// === tables ===

/// What stands in a column, by its heading.
type Column<'a> = (&'static str, Box<dyn Fn(&Row) -> String + 'a>);

fn text<'a>(head: &'static str, of: impl Fn(&Row) -> String + 'a) -> Column<'a> {
    (head, Box::new(move |row| format!("<td>{}</td>", escaped(&of(row)))))
}

fn number(head: &'static str, of: impl Fn(&Row) -> u64 + 'static) -> Column<'static> {
    (head, Box::new(move |row| format!("<td class=\"n\">{}</td>", grouped(of(row)))))
}

fn time(head: &'static str, of: impl Fn(&Row) -> Timestamp + 'static) -> Column<'static> {
    (head, Box::new(move |row| format!("<td class=\"t\">{}</td>", minute(of(row)))))
}

fn tables(page: &mut String, summary: &Summary, names: &Names) {
    let caller = || text("Caller", |row| names.caller(row.caller.as_deref()).to_owned());
    let action = || text("Action", |row| row.action.replace('_', " "));
    let scope = || text("Scope", |row| word(row.scope.as_deref()).to_owned());
    let said = |head| text(head, |row| word(row.word.as_deref()).to_owned());
    let calls = || number("Calls", |row| row.calls);
    let (first, last) = (|| time("First", |row| row.first_time), || time("Last", |row| row.last_time));
    let full = number("In full", |row| row.full);
    let masked = number("Masked", |row| row.masked);
    let withheld = number("Withheld", |row| row.not_done);
    let columns = [caller(), scope(), said("Purpose"), full, masked, withheld, calls(), first(), last()];
    table(page, "Who got values, and what for", &summary.releases, &columns);
    for (title, rows) in [("Denied", &summary.denials), ("Failed", &summary.failures)] {
        table(page, title, rows, &[caller(), action(), scope(), said("Reason"), calls(), first(), last()]);
    }
    let (done, not_done) = (number("Done", |row| row.done), number("Not done", |row| row.not_done));
    let columns = [caller(), action(), scope(), done, not_done, calls(), first(), last()];
    table(page, "Tokenized, inspected, renewed, revoked", &summary.changes, &columns);
    let columns = [caller(), calls(), number("Events told", |row| row.done), first(), last()];
    table(page, "Who asked the log", &summary.questions, &columns);
    let columns = [caller(), action(), scope(), calls(), first(), last()];
    table(page, "What the vault and its operators did", &summary.operations, &columns);
}

fn table(page: &mut String, title: &str, rows: &[Row], columns: &[Column<'_>]) {
    let _ = write!(page, "<section class=\"long\"><h2>{title}</h2>");
    if rows.is_empty() {
        page.push_str("<p>Nothing in this window.</p></section>");
        return;
    }
    page.push_str("<div class=\"scroll\"><table><thead><tr>");
    for (head, cell) in columns {
        let class = if cell(&Row::default()).starts_with("<td class=\"n\"") { " class=\"n\"" } else { "" };
        let _ = write!(page, "<th scope=\"col\"{class}>{head}</th>");
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows.iter().take(ROWS_SHOWN) {
        page.push_str("<tr>");
        for (_, cell) in columns {
            page.push_str(&cell(row));
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></div>");
    if rows.len() > ROWS_SHOWN {
        let _ = write!(page, "<p>{} more rows stand in the JSON.</p>", grouped((rows.len() - ROWS_SHOWN) as u64));
    }
    page.push_str("</section>");
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_240_800_000);

    #[test]
    fn what_callers_write_becomes_no_markup() {
        let page = page(&samples::busy(), NOW);
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<svg onload"), "{page}");
        assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;\\u{202e}\\u{1b}[2J"), "{page}");
        assert!(page.contains("a&amp;b&lt;c&gt;&#39;d&#39;&quot;e&quot;"), "{page}");
    }

    #[test]
    fn the_page_allows_its_own_style_and_nothing_else() {
        for page in [page(&samples::busy(), NOW), page(&samples::empty(), NOW)] {
            let style = page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).unwrap();
            let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
            assert!(page.contains(&format!("default-src 'none'; style-src 'sha256-{hash}'")), "{page}");
            for word in ["http://", "https://", "url(", "@import", " style=", " src=", " href=", "javascript:"] {
                assert!(!page.replace("src=x onerror", "").contains(word), "{word} in {page}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_that_opens_a_tag_or_ends_an_attribute_is_left(text in ".*") {
            let safe = escaped(&text);
            prop_assert!(!safe.contains(['<', '>', '"', '\'']));
            prop_assert!(!safe.chars().any(char::is_control));
            let plain = safe.replace("&lt;", "").replace("&gt;", "").replace("&quot;", "").replace("&#39;", "");
            prop_assert!(!plain.replace("&amp;", "").contains('&'));
        }
    }
}
