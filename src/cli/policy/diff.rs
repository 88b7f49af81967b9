//! `policy diff`: what a candidate rulebook would have said to the calls that a vault has recorded.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;
use serde::Deserialize;
use serde_json::json;

use super::{Rules, timestamp, write_json};
use crate::cli::columns::{aligned, counted};
use crate::cli::moment::moment;
use crate::cli::{Connection, Exit, Format, Usage};
use crate::client::Client;
use crate::clock::Timestamp;
use crate::event::{AccessTokenInfo, Action, Event, Outcome, Reveal, Time};
use crate::policy::{Replay, Rulebook};
use crate::proto::v1;

const PAGE_EVENTS: i32 = 1_000;

/// Decide recorded calls again by the configuration's rulebook, and report what would change.
///
/// Events come from a running vault, with the profile of somebody who may query the audit log, or from a file that `audit
/// query --limit 0 --output json` wrote. Exit status: 0 if nothing changes, 1 if something does.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    rules: Rules,
    /// The auditor's profile: a small TOML with address, ca, certificate and private_key.
    #[arg(long, env = "CLOAKROOM_PROFILE", value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Instead of the profile's address.
    #[arg(long, env = "CLOAKROOM_ADDRESS", value_name = "HOST:PORT")]
    address: Option<String>,
    /// Instead of a vault: recorded events, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Only calls from this time on: RFC 3339, or how long ago, such as 7d.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<prost_types::Timestamp>,
    /// A table, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What is needed of an event as `audit query` writes it. Fields that are empty are left out there.
#[derive(Deserialize)]
struct JsonEvent {
    sequence: u64,
    time: String,
    action: String,
    outcome: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    caller: String,
    access_token: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    requested: u32,
    #[serde(default)]
    purpose: String,
    #[serde(default)]
    policies: Vec<String>,
    reveal: Option<String>,
    #[serde(default)]
    count: u64,
}

pub(super) fn run(options: Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let rulebook = options.rules.rulebook()?;
    let replay = match (options.events, options.profile) {
        (Some(file), _) => from_file(&rulebook, &file, options.since)?,
        (None, Some(profile)) => {
            let connection = Connection { profile, address: options.address };
            connection.run(async |client| from_vault(&rulebook, &client, options.since).await)?
        }
        (None, None) => {
            return Err(
                Usage("name where the recorded calls are: --profile of an auditor, or --events FILE".into()).into()
            );
        }
    };
    match options.output {
        Format::Text => write_text(output, &replay).context("cannot write the output")?,
        Format::Json => write_lines(output, &replay)?,
    }
    Ok(if replay.changes.is_empty() { Exit::Done } else { Exit::SomeFailed })
}

async fn from_vault(
    rulebook: &Rulebook,
    client: &Client,
    since: Option<prost_types::Timestamp>,
) -> anyhow::Result<Replay> {
    let mut replay = Replay::default();
    let filter = Some(v1::AuditFilter { start_time: since, ..v1::AuditFilter::default() });
    let mut request = v1::QueryEventsRequest { filter, page_size: PAGE_EVENTS, ..v1::QueryEventsRequest::default() };
    loop {
        let page = client.query_events(request.clone()).await?;
        for event in &page.events {
            // The public message and the vault's own are the same on the wire.
            let event =
                Event::decode(event.encode_to_vec().as_slice()).context("the vault sent what is not an event")?;
            replay.add(rulebook, &event);
        }
        if page.next_page_token.is_empty() {
            return Ok(replay);
        }
        request.page_token = page.next_page_token;
    }
}

fn from_file(rulebook: &Rulebook, file: &Path, since: Option<prost_types::Timestamp>) -> anyhow::Result<Replay> {
    let since = since.map(timestamp).transpose()?;
    let name = file.display();
    let opened = std::fs::File::open(file).map_err(|error| Usage(format!("{name}: cannot read it: {error}")))?;
    let mut replay = Replay::default();
    for (index, line) in BufReader::new(opened).lines().enumerate() {
        let wrong = |problem: String| {
            let hint = "the file is what `cloakroom audit query --limit 0 --output json` writes";
            Usage(format!("{name}:{}: not a recorded event: {problem}; {hint}", index + 1))
        };
        let line = line.map_err(|error| wrong(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let event: JsonEvent = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        let event = event.into_event().map_err(wrong)?;
        if since.is_none_or(|since| event.timestamp().is_some_and(|time| time >= since)) {
            replay.add(rulebook, &event);
        }
    }
    Ok(replay)
}

/// For `src/fuzz`: a line of `audit query`, as it is read again.
#[cfg(test)]
pub(in crate::cli) fn check_line(line: &[u8]) {
    let Ok(event) = serde_json::from_slice::<JsonEvent>(line) else { return };
    if let Ok(event) = event.into_event() {
        assert!(event.timestamp().is_some());
    }
}

impl JsonEvent {
    fn into_event(self) -> Result<Event, String> {
        let unknown = |field: &str| format!("`{field}` has an unknown word");
        let reveal = match self.reveal {
            Some(word) => Reveal::from_word(&word.to_lowercase()).ok_or_else(|| unknown("reveal"))?,
            None => Reveal::Unspecified,
        };
        let time = humantime::parse_rfc3339(&self.time).map_err(|_| "`time` is not RFC 3339".to_owned())?;
        let since_epoch = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| "`time` is before 1970".to_owned())?;
        let millis = u64::try_from(since_epoch.as_millis()).map_err(|_| "`time` is too late".to_owned())?;
        Ok(Event {
            sequence: self.sequence,
            time: Some(Time::from(Timestamp::from_millis(millis))),
            action: Action::from_word(&self.action.to_lowercase()).ok_or_else(|| unknown("action"))?.into(),
            outcome: Outcome::from_word(&self.outcome.to_lowercase()).ok_or_else(|| unknown("outcome"))?.into(),
            reason: self.reason,
            caller: self.caller,
            access_token: self.access_token.map(|_| AccessTokenInfo::default()),
            scope: self.scope,
            requested: self.requested,
            purpose: self.purpose,
            policies: self.policies,
            reveal: reveal.into(),
            count: self.count,
            ..Event::default()
        })
    }
}

fn write_text(output: &mut impl Write, replay: &Replay) -> std::io::Result<()> {
    if !replay.changes.is_empty() {
        let heading = ["CHANGE", "CALLS", "ACTION", "SCOPE", "CALLER", "DECIDED BY", "EXAMPLE"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        for (change, tally) in &replay.changes {
            let way = if change.now_allowed { "denied, would be allowed" } else { "allowed, would be denied" };
            rows.push(vec![
                way.to_owned(),
                tally.calls.to_string(),
                change.action.to_owned(),
                or_dash(&change.scope),
                change.caller.clone(),
                or_dash(&tally.policies.join(", ")),
                format!("event {}", tally.example),
            ]);
        }
        writeln!(output, "{}", aligned(&rows))?;
    }
    if !replay.undecided.is_empty() {
        let mut rows = vec![["UNDECIDED", "ACTION", "SCOPE", "CALLER", "EXAMPLE", "WHY"].map(str::to_owned).to_vec()];
        for (undecided, tally) in &replay.undecided {
            rows.push(vec![
                tally.calls.to_string(),
                undecided.action.to_owned(),
                or_dash(&undecided.scope),
                or_dash(&undecided.caller),
                format!("event {}", tally.example),
                undecided.why.to_owned(),
            ]);
        }
        writeln!(output, "{}", aligned(&rows))?;
    }
    let (changed, same) = (replay.changed(), replay.same);
    writeln!(
        output,
        "{} would be decided otherwise, {same} the same, {} can't be decided; {} of {} are no decisions of policy",
        counted(changed, "call"),
        replay.left_open(),
        replay.others,
        counted(replay.events, "event"),
    )
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn write_lines(output: &mut impl Write, replay: &Replay) -> anyhow::Result<()> {
    let decision = |allowed: bool| if allowed { "allow" } else { "deny" };
    for (change, tally) in &replay.changes {
        let line = json!({
            "kind": "change",
            "was": decision(!change.now_allowed),
            "would_be": decision(change.now_allowed),
            "caller": change.caller,
            "action": change.action,
            "scope": change.scope,
            "calls": tally.calls,
            "example": tally.example,
            "policies": tally.policies,
        });
        write_json(output, &line)?;
    }
    for (undecided, tally) in &replay.undecided {
        let line = json!({
            "kind": "undecided",
            "why": undecided.why,
            "caller": undecided.caller,
            "action": undecided.action,
            "scope": undecided.scope,
            "calls": tally.calls,
            "example": tally.example,
        });
        write_json(output, &line)?;
    }
    let summary = json!({
        "kind": "summary",
        "events": replay.events,
        "changed": replay.changed(),
        "same": replay.same,
        "undecided": replay.left_open(),
        "no_decisions": replay.others,
    });
    write_json(output, &summary)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scope::Scopes;

    const EVENT: &str = r#"{"log_id":"l","sequence":4,"time":"2027-01-15T08:00:00.123Z","action":"QUERY_AUDIT","outcome":"ALLOWED",
        "caller":"spiffe://a.example/x","requested":0,"succeeded":3,"policies":["p"],"detail":"newest first"}"#;

    fn replay(line: &str) -> anyhow::Result<Replay> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.jsonl");
        std::fs::write(&file, format!("\n{}\n", line.replace('\n', ""))).unwrap();
        let none = Rulebook::load(Scopes::default(), &BTreeMap::new(), Vec::new(), &["a.example".to_owned()]).unwrap();
        from_file(&none, &file, None)
    }

    #[test]
    fn lines_of_audit_query_are_events() {
        let replay = replay(EVENT).unwrap();
        assert_eq!((replay.events, replay.changed(), replay.left_open()), (1, 1, 0));
        let time = serde_json::from_str::<JsonEvent>(EVENT).unwrap().into_event().unwrap().timestamp();
        assert_eq!(time, Some(Timestamp::from_millis(1_800_000_000_123)));
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_line() {
        for (from, to, said) in [
            ("\"sequence\":4,", "", "missing field `sequence`"),
            ("QUERY_AUDIT", "ASK", "`action` has an unknown word"),
            ("ALLOWED", "MAYBE", "`outcome` has an unknown word"),
            ("2027-01-15T08:00:00.123Z", "today", "`time` is not RFC 3339"),
            ("\"caller\":", "\"reveal\":\"HALF\",\"caller\":", "`reveal` has an unknown word"),
        ] {
            let error = replay(&EVENT.replace(from, to)).unwrap_err();
            assert!(error.is::<Usage>(), "{error}");
            let words = error.to_string();
            assert!(words.contains("events.jsonl:2: not a recorded event") && words.contains(said), "{words}");
        }
    }
}
