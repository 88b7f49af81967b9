//! O-09: the numbers at `/metrics` of a real vault are those that the pages describe, and say what is so.

use crate::harness::{Home, Server, eventually, texts};
use crate::witness::Site;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What is scraped: the kind of each metric that says something of itself, and each series with its value.
struct Scraped {
    kinds: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    series: BTreeMap<String, String>,
}

impl Scraped {
    fn of(server: &Server) -> Self {
        let (status, body) = server.get("/metrics");
        assert!(status.contains(" 200 "), "{status}");
        let mut scraped = Self { kinds: BTreeMap::new(), helped: BTreeSet::new(), series: BTreeMap::new() };
        for line in body.lines().filter(|line| !line.is_empty()) {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                scraped.kinds.insert(name.to_owned(), kind.to_owned());
            } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                assert!(help.ends_with('.'), "{line}");
                scraped.helped.insert(name.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(scraped.series.insert(series.to_owned(), value.to_owned()).is_none(), "twice: {series}");
            }
        }
        scraped
    }

    fn text(&self, series: &str) -> &str {
        self.series.get(series).unwrap_or_else(|| panic!("no {series}"))
    }

    fn value(&self, series: &str) -> f64 {
        self.text(series).parse().unwrap()
    }

    /// Names of metrics, a histogram's three series as one.
    fn names(&self) -> BTreeSet<String> {
        self.kinds.keys().cloned().collect()
    }
}

/// The metrics in the first column of the pages' tables.
fn documented() -> BTreeSet<String> {
    let pages = ["operations.md", "witness.md", "siem.md"]
        .map(|name| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap());
    let cells =
        pages.iter().flat_map(|page| page.lines()).filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.filter(|word| word.starts_with("cloakroom_") && !word.ends_with('…')).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_has_all_the_numbers_that_the_pages_describe_and_no_others() {
    let home = Home::init();
    let site = Site::init(&home.file("log.vkey"));
    let witness = site.serve();
    site.watch(&home, &witness.url());
    // A receiver that is not there: what is counted of it is there all the same.
    let sink = "[[audit.sinks]]\nname = \"siem\"\ntype = \"otlp\"\naddress = \"http://127.0.0.1:9\"\n";
    home.append("cloakroom.toml", sink);
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    texts(&gateway.tokenize("pan", &[b"4111111111111111", b"5500005555555559"]).await);
    let documented = documented();
    assert!(documented.len() > 30, "{documented:?}");
    // Some come with the first checkpoint, the first cosignature, the first look.
    let scraped = eventually("all numbers are there", || async {
        let scraped = Scraped::of(&server);
        let is_seen = scraped.series.get("cloakroom_connections_open").is_some_and(|open| open == "1");
        (scraped.names().is_superset(&documented) && is_seen).then_some(scraped)
    })
    .await;
    assert_eq!(scraped.names(), documented, "a number that no page describes");
    assert_eq!(scraped.helped, documented, "a number that does not say what it is");
    for (name, kind) in &scraped.kinds {
        let is_total = name.ends_with("_total");
        assert_eq!(kind == "counter", is_total, "{name} is a {kind}");
    }
    assert_eq!(scraped.text(&format!("cloakroom_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), "1");
    // As `init` makes them: 90 days, and a year for the authority.
    let left = |of: &str| scraped.value(&format!("cloakroom_certificate_expiry_seconds{{of=\"{of}\"}}")) / 86_400.0;
    assert!((89.0..=90.1).contains(&left("server")), "{}", left("server"));
    assert!((364.0..=366.1).contains(&left("trust_domains")), "{}", left("trust_domains"));
    assert_eq!(scraped.text("cloakroom_handshake_seconds_count"), "1");
    assert!(scraped.value("cloakroom_tokens") >= 1.0);
    let (commits, calls) =
        (scraped.value("cloakroom_commit_seconds_count"), scraped.value("cloakroom_commit_calls_sum"));
    // The start and one call at least, and never more commits than there was something to write.
    assert!(commits >= 2.0 && calls >= commits, "{commits} commits of {calls} calls");
    assert_eq!(scraped.text("cloakroom_commit_calls_count"), scraped.text("cloakroom_commit_seconds_count"));
    server.stop();
    witness.stop();
}
