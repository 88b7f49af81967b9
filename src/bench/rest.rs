//! Calls of another product over HTTP, with JSON: OpenBao's transit engine and its store of keys and values.
//!
//! They go over the same connections, from the same threads and with as little work of the client as calls of the vault: bodies
//! are made beforehand. Invariant: a reply counts only if its status says so and it holds what it must; the values that come back
//! are held against those that went in.

use super::Error;
use super::driver::Caller;
use super::load::{Care, Expected, Load, Target, card_number};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use prost::bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use tonic::body::Body;

/// Who calls. OpenBao takes this name and another one.
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const ENCRYPT: &str = "/v1/transit/encrypt/pan";
const DECRYPT: &str = "/v1/transit/decrypt/pan";
/// Before a key's name.
const KV: &str = "/v1/kv/";

/// A kind of call.
#[derive(Debug)]
pub(super) struct Rest {
    name: &'static str,
    method: Method,
    token: HeaderValue,
    path: Path,
    wanted: Wanted,
}

/// Where the call of a number goes.
#[derive(Debug)]
enum Path {
    One(PathAndQuery),
    /// A key of its own for each number, behind this.
    Keys(String),
    /// One of so many keys.
    Among(String, usize),
}

/// What the reply to the call of a number must hold.
enum Wanted {
    /// So many ciphertexts.
    Ciphertexts(usize),
    /// These plaintexts, in parts for each of the different requests.
    Plaintexts(Vec<Vec<String>>),
    /// Nothing but the status.
    Nothing,
    /// The value that was written under the key, of so many.
    Written(usize),
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("what a reply must hold")
    }
}

impl Rest {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    fn into_load(self, requests: Vec<Bytes>) -> Load {
        Load {
            target: Target::Peer,
            path: PathAndQuery::from_static("/"),
            requests: requests.into(),
            expected: Expected::Rest(Arc::new(self)),
            care: Care::Each,
        }
    }

    /// Whether the reply to the call of this number is what it should be.
    fn is_met_by(&self, number: usize, status: StatusCode, reply: &[u8]) -> bool {
        let data = || serde_json::from_slice::<Value>(reply).ok().map(|mut reply| reply["data"].take());
        match &self.wanted {
            Wanted::Ciphertexts(count) => {
                data().is_some_and(|data| ciphertexts_in(&data).is_some_and(|found| found.len() == *count))
            }
            Wanted::Plaintexts(all) => {
                let wanted = &all[number % all.len()];
                data().is_some_and(|data| items(&data, "plaintext").is_some_and(|found| found == *wanted))
            }
            Wanted::Nothing => status == StatusCode::NO_CONTENT && reply.is_empty(),
            Wanted::Written(keys) => data().is_some_and(|data| data["value"] == value(number % keys)),
        }
    }
}

/// Encrypt calls of so many values each.
pub(super) fn encrypt(token: &HeaderValue, values: usize, calls: usize) -> Load {
    let inputs = (0..calls).map(|call| (0..values).map(|place| plaintext(call * values + place)).collect());
    let bodies = inputs.map(|input: Vec<String>| body("plaintext", &input)).collect();
    post("transit encrypt", token, ENCRYPT, Wanted::Ciphertexts(values)).into_load(bodies)
}

/// Decrypt calls of what these replies to [`encrypt`] hold, so many values each, in their order.
pub(super) fn decrypt(token: &HeaderValue, values: usize, encrypted: &[Bytes]) -> Result<Load, Error> {
    let (mut bodies, mut plaintexts) = (Vec::new(), Vec::new());
    for (call, reply) in encrypted.iter().enumerate() {
        let reply: Option<Value> = serde_json::from_slice(reply).ok();
        let found = reply.and_then(|reply| ciphertexts_in(&reply["data"]));
        let unread = || Error::Call { call: "transit encrypt", problem: "its reply can't be read".to_owned() };
        bodies.push(body("ciphertext", &found.ok_or_else(unread)?));
        plaintexts.push((0..values).map(|place| plaintext(call * values + place)).collect());
    }
    Ok(post("transit decrypt", token, DECRYPT, Wanted::Plaintexts(plaintexts)).into_load(bodies))
}

/// Calls that write a value under a new key each; the series keeps them apart from those of others.
pub(super) fn write(token: &HeaderValue, series: &str, calls: usize) -> Load {
    let bodies = (0..calls).map(|call| json!({ "value": value(call) }).to_string().into()).collect();
    let keys = Path::Keys(format!("{KV}{series}-"));
    Rest { path: keys, ..post("kv write", token, KV, Wanted::Nothing) }.into_load(bodies)
}

/// Calls that read what so many calls of [`write`] wrote in this series.
pub(super) fn read(token: &HeaderValue, series: &str, written: usize) -> Load {
    let keys = Path::Among(format!("{KV}{series}-"), written);
    let rest = post("kv read", token, KV, Wanted::Written(written));
    Rest { method: Method::GET, path: keys, ..rest }.into_load(vec![Bytes::new(); written])
}

fn post(name: &'static str, token: &HeaderValue, path: &'static str, wanted: Wanted) -> Rest {
    Rest { name, method: Method::POST, token: token.clone(), path: Path::One(PathAndQuery::from_static(path)), wanted }
}

/// One item by itself, several as a batch: as the product's own clients do.
fn body(field: &str, items: &[String]) -> Bytes {
    match items {
        [one] => json!({ field: one }).to_string().into(),
        several => {
            let items: Vec<Value> = several.iter().map(|item| json!({ field: item })).collect();
            json!({ "batch_input": items }).to_string().into()
        }
    }
}

/// What was answered for each item; `None` if one failed.
fn items(data: &Value, field: &str) -> Option<Vec<String>> {
    let text = |item: &Value| item[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match data["batch_results"].as_array() {
        Some(results) => results.iter().map(text).collect(),
        None => Some(vec![text(data)?]),
    }
}

fn ciphertexts_in(data: &Value) -> Option<Vec<String>> {
    items(data, "ciphertext")
}

fn value(number: usize) -> String {
    String::from_utf8_lossy(&card_number(number)).into_owned()
}

fn plaintext(number: usize) -> String {
    STANDARD.encode(card_number(number))
}

/// Sends the call of this number and waits for its reply.
pub(super) async fn exchange(
    caller: &mut Caller,
    rest: &Rest,
    number: usize,
    body: Bytes,
    looked_into: bool,
) -> Result<Bytes, Error> {
    let failed = |problem: String| Error::Call { call: rest.name, problem };
    let path = match &rest.path {
        Path::One(path) => Ok(path.clone()),
        Path::Keys(before) => PathAndQuery::try_from(format!("{before}{number}")),
        Path::Among(before, keys) => PathAndQuery::try_from(format!("{before}{}", number % keys)),
    };
    let path = path.map_err(|error| failed(error.to_string()))?;
    let (status, reply) = ask(caller, &rest.method, path, Some(&rest.token), body).await.map_err(failed)?;
    match status {
        StatusCode::OK | StatusCode::NO_CONTENT => {}
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            return Err(Error::Refused { call: rest.name });
        }
        other => return Err(failed(other.to_string())),
    }
    if looked_into && !rest.is_met_by(number, status, &reply) {
        return Err(failed("the reply is not as expected".to_owned()));
    }
    Ok(reply)
}

/// One request and its whole reply. What went wrong is said without anything that was sent.
pub(super) async fn ask(
    caller: &mut Caller,
    method: &Method,
    path: PathAndQuery,
    token: Option<&HeaderValue>,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    let uri = Uri::builder().scheme(Scheme::HTTPS).authority(caller.server.clone()).path_and_query(path);
    let mut request = Request::builder().method(method).uri(uri.build().map_err(|error| error.to_string())?);
    if let Some(token) = token {
        request = request.header(TOKEN, token);
    }
    let request = request.body(Body::new(Full::new(body))).map_err(|error| error.to_string())?;
    let reply = caller.wire.send(request).await.map_err(|error| error.to_string())?;
    let status = reply.status();
    let reply = reply.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok((status, reply.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(load: &Load) -> &Rest {
        match &load.expected {
            Expected::Rest(rest) => rest,
            other => panic!("{other:?}"),
        }
    }

    fn is_met(load: &Load, number: usize, reply: &Value) -> bool {
        rest(load).is_met_by(number, StatusCode::OK, reply.to_string().as_bytes())
    }

    #[test]
    fn a_wrong_reply_is_told_from_a_right_one() {
        let token = HeaderValue::from_static("t");
        let encrypted = |items: &[&str]| {
            let results: Vec<Value> = items.iter().map(|item| json!({ "ciphertext": item })).collect();
            json!({ "data": { "batch_results": results } })
        };
        let load = encrypt(&token, 2, 3);
        assert!(is_met(&load, 0, &encrypted(&["vault:v1:a", "vault:v1:b"])));
        assert!(!is_met(&load, 0, &encrypted(&["vault:v1:a"])), "one is missing");
        assert!(!is_met(&load, 0, &encrypted(&["vault:v1:a", ""])), "one failed");
        assert!(!is_met(&load, 0, &json!({ "errors": [] })));

        let reply: Bytes = encrypted(&["a", "b"]).to_string().into();
        let load = decrypt(&token, 2, &[reply.clone(), reply]).unwrap();
        let plaintexts = |first: usize| {
            let results = [first, first + 1].map(|number| json!({ "plaintext": plaintext(number) }));
            json!({ "data": { "batch_results": results } })
        };
        assert!(is_met(&load, 1, &plaintexts(2)) && is_met(&load, 2, &plaintexts(0)));
        assert!(!is_met(&load, 1, &plaintexts(0)), "another call's");
        assert!(decrypt(&token, 2, &[Bytes::from_static(b"{}")]).is_err());

        let load = read(&token, "s", 7);
        assert!(is_met(&load, 8, &json!({ "data": { "value": value(1) } })));
        assert!(!is_met(&load, 8, &json!({ "data": { "value": value(2) } })));
        let load = write(&token, "s", 2);
        assert!(rest(&load).is_met_by(0, StatusCode::NO_CONTENT, b""));
        assert!(!rest(&load).is_met_by(0, StatusCode::OK, b"{}"));
    }
}
