//! An event as OCSF's class *API Activity*, for SIEMs that know that schema.
//!
//! Source: the Open Cybersecurity Schema Framework, version 1.3.0, category Application Activity (6), class 6003. The table
//! in docs/siem.md says where each field goes, and a test holds it against this.
//!
//! Invariant: nothing is lost. What the class has no place for stands in `unmapped`, under its own name, so that an event
//! can be made again from its OCSF form (a test does).

#[cfg(test)]
pub(crate) mod tests;

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use super::severity::Severity;
use super::{Action, Event, ItemOutcome, Outcome, Reveal, Time, json as canonical};
use crate::clock::Timestamp;

/// The version of OCSF that is spoken.
pub const VERSION: &str = "1.3.0";

/// Application Activity.
const CATEGORY: u32 = 6;
/// API Activity.
const CLASS: u32 = 6003;

/// `type_id` of observables.
const IP_ADDRESS: u8 = 2;
const OTHER: u8 = 99;

/// What kind of activity it is, in the class's words.
#[derive(Clone, Copy)]
enum Activity {
    Create = 1,
    Read = 2,
    Update = 3,
    Delete = 4,
    Other = 99,
}

/// The event as an object of the class. `product_version` is the version of the program that sends it.
pub fn api_activity(event: &Event, product_version: &str) -> Value {
    let activity = Activity::of(event.action());
    let (severity_id, severity) = Severity::of(event).ocsf();
    let (status_id, status) = status(event.outcome());
    let mut object = Map::new();
    object.insert("activity_id".into(), json!(activity as u8));
    object.insert("activity_name".into(), json!(activity.name()));
    object.insert("category_uid".into(), json!(CATEGORY));
    object.insert("category_name".into(), json!("Application Activity"));
    object.insert("class_uid".into(), json!(CLASS));
    object.insert("class_name".into(), json!("API Activity"));
    object.insert("type_uid".into(), json!(CLASS * 100 + activity as u32));
    object.insert("type_name".into(), json!(format!("API Activity: {}", activity.name())));
    object.insert("time".into(), json!(millis(event.time)));
    object.insert("severity_id".into(), json!(severity_id));
    object.insert("severity".into(), json!(severity));
    object.insert("status_id".into(), json!(status_id));
    object.insert("status".into(), json!(status));
    object.insert("status_code".into(), json!(upper(event.outcome().word())));
    text(&mut object, "status_detail", &event.reason);
    object.insert("message".into(), json!(message(event)));
    if event.count > 0 {
        object.insert("count".into(), json!(event.count));
    }
    if event.first_time.is_some() {
        object.insert("start_time".into(), json!(millis(event.first_time)));
    }
    object.insert("metadata".into(), metadata(event, product_version));
    object.insert("actor".into(), actor(event));
    object.insert("api".into(), api(event));
    object.insert("src_endpoint".into(), source(event));
    if !event.node.is_empty() {
        object.insert("dst_endpoint".into(), json!({ "name": event.node }));
    }
    list(&mut object, "resources", resources(event));
    list(&mut object, "observables", observables(event));
    object.insert("unmapped".into(), unmapped(event));
    Value::Object(object)
}

fn metadata(event: &Event, product_version: &str) -> Value {
    let mut metadata = Map::new();
    let product = json!({ "name": "Cloakroom", "vendor_name": "Cloakroom", "version": product_version });
    metadata.insert("version".into(), json!(VERSION));
    metadata.insert("product".into(), product);
    metadata.insert("uid".into(), json!(format!("{}/{}", event.log_id, event.sequence)));
    metadata.insert("log_name".into(), json!(event.log_id));
    metadata.insert("log_provider".into(), json!("cloakroom"));
    metadata.insert("sequence".into(), json!(event.sequence));
    metadata.insert("event_code".into(), json!(upper(event.action().word())));
    text(&mut metadata, "correlation_uid", &event.trace_id);
    if let Some(time) = event.timestamp() {
        metadata.insert("original_time".into(), json!(canonical::rfc3339(time).to_string()));
    }
    Value::Object(metadata)
}

fn actor(event: &Event) -> Value {
    let mut user = Map::new();
    user.insert("uid".into(), json!(event.caller));
    hex_text(&mut user, "credential_uid", &event.certificate_sha256);
    let mut actor = Map::new();
    if let Some(token) = &event.access_token {
        text(&mut user, "uid_alt", &token.subject);
        let mut session = Map::new();
        text(&mut session, "issuer", &token.issuer);
        hex_text(&mut session, "credential_uid", &token.token_hash);
        actor.insert("session".into(), Value::Object(session));
    }
    actor.insert("user".into(), Value::Object(user));
    // What failed had been permitted, if a policy had a say.
    let decision = if event.outcome() == Outcome::Denied { "denied" } else { "allowed" };
    let decided = event.policies.iter().map(|id| json!({ "decision": decision, "policy": { "uid": id } })).collect();
    list(&mut actor, "authorizations", decided);
    Value::Object(actor)
}

fn api(event: &Event) -> Value {
    let mut api = Map::new();
    api.insert("operation".into(), json!(event.action().word()));
    api.insert("service".into(), json!({ "name": "cloakroom" }));
    if !event.request_hash.is_empty() {
        api.insert("request".into(), json!({ "uid": hex::encode(&event.request_hash) }));
    }
    Value::Object(api)
}

/// Where the call came from. The class wants one always; what the vault does by itself comes from the vault.
fn source(event: &Event) -> Value {
    let address = event.peer_address.as_str();
    let (peer, ip) = (address.parse::<SocketAddr>(), address.parse::<IpAddr>());
    // An address that would be spelled in another way stays as it is.
    match (peer, ip) {
        (Ok(peer), _) if SocketAddr::new(peer.ip(), peer.port()).to_string() == address => {
            json!({ "ip": peer.ip().to_string(), "port": peer.port() })
        }
        (_, Ok(ip)) if ip.to_string() == address => json!({ "ip": address }),
        _ if !address.is_empty() => json!({ "name": address }),
        _ => json!({ "svc_name": "cloakroom" }),
    }
}

/// The scope, then every item that has a handle, with its place in the request.
fn resources(event: &Event) -> Vec<Value> {
    let scope = (!event.scope.is_empty()).then(|| json!({ "type": "scope", "name": event.scope }));
    let items = event.handles.iter().enumerate().filter(|(_, handle)| !handle.is_empty()).map(|(place, handle)| {
        let mut data = Map::new();
        data.insert("item".into(), json!(place));
        if let Some(outcome) = event.item_outcomes.get(place) {
            data.insert("outcome".into(), json!(item_word(*outcome)));
        }
        json!({ "type": "token", "uid": hex::encode(handle), "data": data })
    });
    scope.into_iter().chain(items).collect()
}

/// What an analyst follows from one event to others. Handles are not repeated here: there can be a thousand.
fn observables(event: &Event) -> Vec<Value> {
    let mut found = Vec::new();
    if !event.caller.is_empty() {
        let name = "actor.user.uid";
        found.push(json!({ "name": name, "type": "SPIFFE ID", "type_id": OTHER, "value": event.caller }));
    }
    if let Some(ip) = source(event).get("ip") {
        found.push(json!({ "name": "src_endpoint.ip", "type": "IP Address", "type_id": IP_ADDRESS, "value": ip }));
    }
    found
}

fn unmapped(event: &Event) -> Value {
    let mut rest = Map::new();
    rest.insert("requested".into(), json!(event.requested));
    rest.insert("succeeded".into(), json!(event.succeeded));
    text(&mut rest, "purpose", &event.purpose);
    if event.reveal() != Reveal::Unspecified {
        rest.insert("reveal".into(), json!(upper(event.reveal().word())));
    }
    hex_text(&mut rest, "rulebook", &event.rulebook);
    list(&mut rest, "item_outcomes", event.item_outcomes.iter().map(|outcome| json!(item_word(*outcome))).collect());
    if event.handles.iter().any(prost::bytes::Bytes::is_empty) {
        rest.insert("handles".into(), json!(event.handles.len()));
    }
    if let Some(token) = &event.access_token {
        text(&mut rest, "access_token_actor", &token.actor);
    }
    text(&mut rest, "detail", &event.detail);
    hex_text(&mut rest, "salt", &event.salt);
    Value::Object(rest)
}

/// One line for people.
fn message(event: &Event) -> String {
    let mut line = format!("{} {}", upper(event.action().word()), upper(event.outcome().word()));
    for (word, text) in
        [(" in ", &event.scope), (" by ", &event.caller), (" for ", &event.purpose), (": ", &event.reason)]
    {
        if !text.is_empty() {
            line.push_str(word);
            line.push_str(text);
        }
    }
    line
}

impl Activity {
    fn of(action: Action) -> Self {
        match action {
            Action::Tokenize | Action::CreateKey | Action::Backup => Self::Create,
            Action::Detokenize
            | Action::Inspect
            | Action::QueryAudit
            | Action::Export
            | Action::Verify
            | Action::Honey => Self::Read,
            Action::Renew | Action::Reload | Action::RotateKeys | Action::Rewrap | Action::Restore | Action::Import => {
                Self::Update
            }
            Action::Revoke | Action::Purge | Action::Shred | Action::Erase => Self::Delete,
            Action::Unspecified
            | Action::Connect
            | Action::Start
            | Action::Stop
            | Action::Clock
            | Action::Seal
            | Action::Unseal
            | Action::Hold
            | Action::Approve
            | Action::Unusual => Self::Other,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::Read => "Read",
            Self::Update => "Update",
            Self::Delete => "Delete",
            Self::Other => "Other",
        }
    }
}

fn status(outcome: Outcome) -> (u8, &'static str) {
    match outcome {
        Outcome::Unspecified => (0, "Unknown"),
        Outcome::Allowed => (1, "Success"),
        Outcome::Denied | Outcome::Failed => (2, "Failure"),
    }
}

fn item_word(number: i32) -> String {
    upper(ItemOutcome::try_from(number).unwrap_or(ItemOutcome::Unspecified).word())
}

fn upper(word: &str) -> String {
    word.to_ascii_uppercase()
}

/// Milliseconds since 1970, as OCSF has times. 0 stands for none, which no stored event has.
fn millis(time: Option<Time>) -> u64 {
    time.and_then(|time| Timestamp::try_from(time).ok()).map_or(0, Timestamp::millis)
}

fn text(object: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        object.insert(name.to_owned(), json!(text));
    }
}

fn hex_text(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    text(object, name, &hex::encode(bytes));
}

fn list(object: &mut Map<String, Value>, name: &str, values: Vec<Value>) {
    if !values.is_empty() {
        object.insert(name.to_owned(), Value::Array(values));
    }
}
