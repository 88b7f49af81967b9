//! `tokenize`, `detokenize`, `inspect`, `renew` and `revoke`: lines in, lines out.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use serde::Serialize;

use super::batches::{self, Refusal};
use super::input;
use super::moment::{lifetime, rfc3339};
use super::terminal::{self, Colour, Terminal};
use super::{Connection, Exit, Format};
use crate::client::{self, Failure};
use crate::proto::v1::{self, detokenize_result, inspect_result, renew_result, revoke_result, tokenize_result};
use crate::secret::SecretBytes;

/// The vault's reason where policy allows a call and only its purpose is missing.
const PURPOSE_REQUIRED: &str = "PURPOSE_REQUIRED";

/// What `inspect` shows of a token, over the columns on a terminal.
const COLUMNS: [(&str, usize); 6] =
    [("HANDLE", 40), ("STATE", 9), ("CREATED", 24), ("EXPIRES", 24), ("USES", 4), ("KEY", 3)];

/// Store values and print a token for each.
///
/// Values come from FILE or standard input, one a line, never from arguments, which others on the machine can see. Tokens
/// go out one a line in the same order. A refused line gives an empty line, and a message on standard error.
#[derive(clap::Args)]
pub(super) struct TokenizeOptions {
    #[command(flatten)]
    connection: Connection,
    /// The scope to store under, such as pan.
    #[arg(long, value_name = "SCOPE")]
    scope: String,
    /// How a line holds a value: as it is (a line ends with LF or CR LF; what may end in CR goes in as base64); in base64; or as {"value": "…"} or {"value_base64": "…"}, where "ttl" and
    /// "max_uses" may stand beside it.
    #[arg(long, value_enum, default_value_t = Input::Lines)]
    input: Input,
    /// How long the tokens live, such as 90s or 30d. By default as long as the scope says.
    #[arg(long, value_parser = lifetime)]
    ttl: Option<prost_types::Duration>,
    /// How often each value may be released. By default without limit.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_uses: Option<u32>,
    /// One token a line, or one JSON object.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Values. By default, or for -, standard input.
    file: Option<PathBuf>,
}

/// Exchange tokens for their values.
///
/// Tokens come from FILE or standard input, one a line; values go out one a line in the same order. A refused line gives
/// an empty line, and a message on standard error. Each value that is printed, in full or masked, uses up a use.
#[derive(clap::Args)]
pub(super) struct DetokenizeOptions {
    #[command(flatten)]
    connection: Connection,
    /// The scope that the tokens belong to.
    #[arg(long, value_name = "SCOPE")]
    scope: String,
    /// Why the values are needed; it goes into the audit log. Most scopes require it.
    #[arg(long, default_value = "")]
    purpose: String,
    /// Ask for masked values only.
    #[arg(long)]
    masked: bool,
    /// As they are, one a line (a value with a line break can't be: it gives an empty line); in base64, one a line; or one
    /// JSON object a line.
    #[arg(long, value_enum, default_value_t = ValueFormat::Text)]
    output: ValueFormat,
    /// Tokens. By default, or for -, standard input.
    file: Option<PathBuf>,
}

/// Print what is known about tokens, never their values.
///
/// Tokens (or handles) come from FILE or standard input, one a line. As text: handle, state, created, expires, uses left
/// (- for no limit) and the data key's version, with tabs between; on a terminal in columns.
#[derive(clap::Args)]
pub(super) struct InspectOptions {
    #[command(flatten)]
    selection: Selection,
}

/// Give live tokens another lifetime, counted from now.
///
/// Tokens come from FILE or standard input, one a line. As text: when each now expires. A lifetime that would end after the
/// scope's ceiling, counted from the token's making, is refused, never cut; so is a token that is no longer live.
#[derive(clap::Args)]
pub(super) struct RenewOptions {
    #[command(flatten)]
    connection: Connection,
    /// The scope that the tokens belong to.
    #[arg(long, value_name = "SCOPE")]
    scope: String,
    /// How long the tokens live from now on, such as 90s or 30d. By default as long as the scope says.
    #[arg(long, value_parser = lifetime)]
    ttl: Option<prost_types::Duration>,
    /// One line of text, or one JSON object, for each.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Tokens. By default, or for -, standard input.
    file: Option<PathBuf>,
}

/// End tokens for good. Revoking again is no mistake and prints the first time.
///
/// Tokens (or handles) come from FILE or standard input, one a line. As text: the time of revocation.
#[derive(clap::Args)]
pub(super) struct RevokeOptions {
    #[command(flatten)]
    selection: Selection,
    /// Why; it goes into the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

/// Which tokens, and how to print what became of them.
#[derive(clap::Args)]
struct Selection {
    #[command(flatten)]
    connection: Connection,
    /// The scope that the tokens belong to.
    #[arg(long, value_name = "SCOPE")]
    scope: String,
    /// The lines are handles, as the audit log shows them, not tokens.
    #[arg(long)]
    handle: bool,
    /// One line of text, or one JSON object, for each.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Tokens or handles. By default, or for -, standard input.
    file: Option<PathBuf>,
}

/// How a line holds a value.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Input {
    Lines,
    Base64,
    Ndjson,
}

/// How a value is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ValueFormat {
    Text,
    Base64,
    Json,
}

/// One value to store. Its buffer wipes itself.
struct Item {
    value: SecretBytes,
    ttl: Option<prost_types::Duration>,
    max_uses: u32,
}

/// A line of `--input ndjson`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonItem {
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<String>,
    max_uses: Option<u32>,
}

/// A refused line of `--output json`.
#[derive(Serialize)]
struct JsonError<'a> {
    line: u64,
    error: JsonFailure<'a>,
}

#[derive(Serialize)]
struct JsonFailure<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    message: &'a str,
}

#[derive(Serialize)]
struct JsonToken<'a> {
    line: u64,
    token: &'a str,
    handle: &'a str,
    expire_time: String,
}

#[derive(Serialize)]
struct JsonValue<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Serialize)]
struct JsonInfo<'a> {
    line: u64,
    handle: &'a str,
    state: &'a str,
    create_time: String,
    expire_time: String,
    uses_left: Option<u32>,
    key_version: u32,
}

#[derive(Serialize)]
struct JsonRenewed {
    line: u64,
    expire_time: String,
}

#[derive(Serialize)]
struct JsonRevoked {
    line: u64,
    revoke_time: String,
}

pub(super) fn tokenize(options: TokenizeOptions, output: &mut impl Write) -> anyhow::Result<Exit> {
    let TokenizeOptions { connection, scope, input, ttl, max_uses, output: format, file } = options;
    let source = input::open(file.as_deref())?;
    connection.run(async |client| {
        let lines = input::batches(source, move |line| item(line, input, ttl, max_uses.unwrap_or(0)));
        let call = move |items: &[Item]| {
            let (client, scope) = (client.clone(), scope.clone());
            let items = items.iter().map(tokenize_item).collect();
            let request = v1::TokenizeRequest { scope, items, request_id: String::new(), all_or_nothing: false };
            async move {
                client.call(request, None).await.and_then(|response| response.results.into_iter().map(issued).collect())
            }
        };
        batches::run(lines, call, output, |output, line, result| match (result, format) {
            (Ok(token), Format::Text) => writeln!(output, "{}", token.token),
            (Ok(token), Format::Json) => json(
                output,
                &JsonToken {
                    line,
                    token: &token.token,
                    handle: &token.handle,
                    expire_time: rfc3339(token.expire_time.as_ref()),
                },
            ),
            (Err(refusal), format) => refused(output, line, refusal, format),
        })
        .await
    })
}

pub(super) fn detokenize(options: DetokenizeOptions, output: &mut impl Write) -> anyhow::Result<Exit> {
    let DetokenizeOptions { connection, scope, purpose, masked, output: format, file } = options;
    let reveal = if masked { v1::Reveal::Masked } else { v1::Reveal::Full };
    let source = input::open(file.as_deref())?;
    let without_purpose = purpose.is_empty();
    let done = connection.run(async |client| {
        let call = move |tokens: &[SecretBytes]| {
            let client = client.clone();
            let request = v1::DetokenizeRequest {
                scope: scope.clone(),
                tokens: tokens.iter().map(text).collect(),
                purpose: purpose.clone(),
                reveal: reveal.into(),
                ..v1::DetokenizeRequest::default()
            };
            async move {
                let response = client.call(request, None).await?;
                response.results.into_iter().map(|result| released(result, format)).collect()
            }
        };
        batches::run(input::batches(source, name), call, output, |output, line, result| match result {
            Ok(value) => write_value(output, line, value, format),
            Err(refusal) if format == ValueFormat::Json => refused(output, line, refusal, Format::Json),
            Err(refusal) => refused(output, line, refusal, Format::Text),
        })
        .await
    });
    done.map_err(|error| if without_purpose { with_advice_on_purposes(error) } else { error })
}

/// The vault says no more than that policy said no: which policy, and why, is not for the caller to know. That a purpose was
/// forgotten is seen on this side.
fn with_advice_on_purposes(error: anyhow::Error) -> anyhow::Error {
    let concerned = match error.downcast_ref::<client::Error>() {
        Some(client::Error::Denied(_)) => true,
        Some(client::Error::Invalid(failure)) => failure.reason.as_deref() == Some(PURPOSE_REQUIRED),
        _ => false,
    };
    if !concerned {
        return error;
    }
    error.context("there is no --purpose, which most scopes and policies want (such as --purpose refund)")
}

pub(super) fn inspect(options: InspectOptions, output: &mut impl Write) -> anyhow::Result<Exit> {
    let Selection { connection, scope, handle, output: format, file } = options.selection;
    let source = input::open(file.as_deref())?;
    connection.run(async |client| {
        let call = move |names: &[SecretBytes]| {
            let (client, scope) = (client.clone(), scope.clone());
            let (tokens, handles) = split(names, handle);
            async move {
                let response = client.call(v1::InspectTokensRequest { scope, tokens, handles }, None).await?;
                response.results.into_iter().map(inspected).collect()
            }
        };
        let terminal = Terminal::of_output();
        if let (Format::Text, Some(width)) = (format, terminal.width()) {
            let heading = cells(COLUMNS.map(|(name, _)| name.to_owned()));
            writeln!(output, "{}", terminal.colour(Colour::Bold, &terminal::flow(&heading, width)))
                .context("cannot write the output")?;
        }
        batches::run(input::batches(source, name), call, output, |output, line, result| match result {
            Ok(info) => write_info(output, line, info, format, terminal.width()),
            Err(refusal) => refused(output, line, refusal, format),
        })
        .await
    })
}

pub(super) fn renew(options: RenewOptions, output: &mut impl Write) -> anyhow::Result<Exit> {
    let RenewOptions { connection, scope, ttl, output: format, file } = options;
    let source = input::open(file.as_deref())?;
    connection.run(async |client| {
        let call = move |names: &[SecretBytes]| {
            let client = client.clone();
            let tokens = names.iter().map(text).collect();
            let request = v1::RenewTokensRequest { scope: scope.clone(), tokens, ttl, request_id: String::new() };
            async move {
                let response = client.call(request, None).await?;
                response.results.into_iter().map(renewed).collect()
            }
        };
        batches::run(input::batches(source, name), call, output, |output, line, result| match (result, format) {
            (Ok(time), Format::Text) => writeln!(output, "{}", rfc3339(Some(time))),
            (Ok(time), Format::Json) => json(output, &JsonRenewed { line, expire_time: rfc3339(Some(time)) }),
            (Err(refusal), format) => refused(output, line, refusal, format),
        })
        .await
    })
}

pub(super) fn revoke(options: RevokeOptions, output: &mut impl Write) -> anyhow::Result<Exit> {
    let RevokeOptions { selection: Selection { connection, scope, handle, output: format, file }, reason } = options;
    let source = input::open(file.as_deref())?;
    connection.run(async |client| {
        let call = move |names: &[SecretBytes]| {
            let client = client.clone();
            let (tokens, handles) = split(names, handle);
            let (scope, reason) = (scope.clone(), reason.clone());
            let request = v1::RevokeTokensRequest { scope, tokens, reason, handles, request_id: String::new() };
            async move {
                let response = client.call(request, None).await?;
                response.results.into_iter().map(revoked).collect()
            }
        };
        batches::run(input::batches(source, name), call, output, |output, line, result| match (result, format) {
            (Ok(time), Format::Text) => writeln!(output, "{}", rfc3339(Some(time))),
            (Ok(time), Format::Json) => json(output, &JsonRevoked { line, revoke_time: rfc3339(Some(time)) }),
            (Err(refusal), format) => refused(output, line, refusal, format),
        })
        .await
    })
}

/// A line as a value to store. Refusals never repeat any of it, which is why the JSON parser's own words stay unsaid.
fn item(line: SecretBytes, input: Input, ttl: Option<prost_types::Duration>, max_uses: u32) -> Result<Item, String> {
    let item = match input {
        Input::Lines => Item { value: line, ttl, max_uses },
        Input::Base64 => Item { value: from_base64(line.expose())?, ttl, max_uses },
        Input::Ndjson => json_item(&line, ttl, max_uses)?,
    };
    if item.value.is_empty() { Err("an empty value can't be stored".to_owned()) } else { Ok(item) }
}

fn json_item(line: &SecretBytes, ttl: Option<prost_types::Duration>, max_uses: u32) -> Result<Item, String> {
    let parsed: JsonItem = serde_json::from_slice(line.expose()).map_err(|error| {
        let kind = if error.is_data() { "not of the right shape" } else { "not JSON" };
        format!("{kind} at column {}: expected {{\"value\": \"…\"}} or {{\"value_base64\": \"…\"}}", error.column())
    })?;
    let value = match (parsed.value, parsed.value_base64) {
        (Some(value), None) => SecretBytes::new(value.into_bytes()),
        (None, Some(encoded)) => from_base64(SecretBytes::new(encoded.into_bytes()).expose())?,
        _ => return Err("exactly one of \"value\" and \"value_base64\" is needed".to_owned()),
    };
    let ttl = match parsed.ttl {
        Some(text) => Some(lifetime(&text).map_err(|problem| format!("\"ttl\": {problem}"))?),
        None => ttl,
    };
    if parsed.max_uses == Some(0) {
        return Err("\"max_uses\": at least 1; leave it out for no limit".to_owned());
    }
    Ok(Item { value, ttl, max_uses: parsed.max_uses.unwrap_or(max_uses) })
}

/// For `src/fuzz`: lines of values in each form, and of tokens. What is said of a line does not repeat it.
#[cfg(test)]
pub(super) fn check_input(which: u8, lines: &[u8]) {
    let mut seen = 0;
    let mut look = |batch: input::Batch<SecretBytes>| {
        for line in batch {
            seen += 1;
            assert_eq!(line.number, seen, "lines are counted");
            if let Err(problem) = line.item {
                assert!(problem.len() < 200, "a line is repeated");
            }
        }
        true
    };
    let form = [Input::Lines, Input::Base64, Input::Ndjson][usize::from(which) % 3];
    let value = |line| item(line, form, None, 0).map(|item| item.value);
    input::read(lines, value, &mut look).expect("bytes in memory can be read");
    seen_again(lines);
}

#[cfg(test)]
fn seen_again(lines: &[u8]) {
    let is_text = |batch: input::Batch<SecretBytes>| {
        batch.iter().filter_map(|line| line.item.as_ref().ok()).for_each(|name| drop(text(name)));
        true
    };
    input::read(lines, name, is_text).expect("bytes in memory can be read");
}

fn from_base64(text: &[u8]) -> Result<SecretBytes, String> {
    BASE64.decode(text).map(SecretBytes::new).map_err(|_| "not base64 (standard alphabet, with padding)".to_owned())
}

/// A line as a token or handle: text, without white space around it.
fn name(line: SecretBytes) -> Result<SecretBytes, String> {
    let trimmed = line.expose().trim_ascii();
    match std::str::from_utf8(trimmed) {
        Ok("") => Err("empty".to_owned()),
        Ok(_) => Ok(SecretBytes::new(trimmed.to_vec())),
        Err(_) => Err("not a token: it is not even text".to_owned()),
    }
}

fn tokenize_item(item: &Item) -> v1::TokenizeItem {
    v1::TokenizeItem {
        value: item.value.expose().clone(),
        ttl: item.ttl,
        max_uses: item.max_uses,
        subject: String::new(),
    }
}

fn text(name: &SecretBytes) -> String {
    String::from_utf8(name.expose().clone()).expect("a line became a name only if it is text")
}

/// Names as tokens or as handles, for requests that take both.
fn split(names: &[SecretBytes], are_handles: bool) -> (Vec<String>, Vec<String>) {
    let names = names.iter().map(text).collect();
    if are_handles { (Vec::new(), names) } else { (names, Vec::new()) }
}

fn no_outcome() -> client::Error {
    client::Error::malformed_answer("a result has neither a value nor an error".to_owned())
}

fn issued(result: v1::TokenizeResult) -> Result<Result<v1::IssuedToken, Failure>, client::Error> {
    match result.outcome.ok_or_else(no_outcome)? {
        tokenize_result::Outcome::Issued(token) => Ok(Ok(token)),
        tokenize_result::Outcome::Error(status) => Ok(Err(Failure::of_item(&status))),
    }
}

fn released(result: v1::DetokenizeResult, format: ValueFormat) -> Result<Result<SecretBytes, Failure>, client::Error> {
    let value = match result.outcome.ok_or_else(no_outcome)? {
        detokenize_result::Outcome::Value(value) => SecretBytes::new(value),
        detokenize_result::Outcome::Error(status) => return Ok(Err(Failure::of_item(&status))),
    };
    if format == ValueFormat::Text && value.expose().contains(&b'\n') {
        // Printed as it is, it would pass for two lines and shift all that follow.
        let message = "the value has a line break; ask with --output base64 or json".to_owned();
        return Ok(Err(Failure::here(message)));
    }
    Ok(Ok(value))
}

fn inspected(result: v1::InspectResult) -> Result<Result<v1::TokenInfo, Failure>, client::Error> {
    match result.outcome.ok_or_else(no_outcome)? {
        inspect_result::Outcome::Info(info) => Ok(Ok(info)),
        inspect_result::Outcome::Error(status) => Ok(Err(Failure::of_item(&status))),
    }
}

fn renewed(result: v1::RenewResult) -> Result<Result<prost_types::Timestamp, Failure>, client::Error> {
    match result.outcome.ok_or_else(no_outcome)? {
        renew_result::Outcome::ExpireTime(time) => Ok(Ok(time)),
        renew_result::Outcome::Error(status) => Ok(Err(Failure::of_item(&status))),
    }
}

fn revoked(result: v1::RevokeResult) -> Result<Result<prost_types::Timestamp, Failure>, client::Error> {
    match result.outcome.ok_or_else(no_outcome)? {
        revoke_result::Outcome::RevokeTime(time) => Ok(Ok(time)),
        revoke_result::Outcome::Error(status) => Ok(Err(Failure::of_item(&status))),
    }
}

fn write_value(output: &mut impl Write, line: u64, value: &SecretBytes, format: ValueFormat) -> io::Result<()> {
    match format {
        ValueFormat::Text => {
            output.write_all(value.expose())?;
            output.write_all(b"\n")
        }
        ValueFormat::Base64 => writeln!(output, "{}", BASE64.encode(value.expose())),
        ValueFormat::Json => {
            if let Ok(text) = std::str::from_utf8(value.expose()) {
                json(output, &JsonValue { line, value: Some(text), value_base64: None })
            } else {
                let encoded = BASE64.encode(value.expose());
                json(output, &JsonValue { line, value: None, value_base64: Some(encoded) })
            }
        }
    }
}

/// With tabs between for programs, in columns that fit the `width` of a terminal for people.
fn write_info(
    output: &mut impl Write,
    line: u64,
    info: &v1::TokenInfo,
    format: Format,
    width: Option<usize>,
) -> io::Result<()> {
    let state = info.state().as_str_name().trim_start_matches("TOKEN_STATE_");
    let (create_time, expire_time) = (rfc3339(info.create_time.as_ref()), rfc3339(info.expire_time.as_ref()));
    let v1::TokenInfo { handle, uses_left, key_version, .. } = info;
    match format {
        Format::Text => {
            let uses = uses_left.map_or("-".to_owned(), |uses| uses.to_string());
            let row = [handle.clone(), state.to_owned(), create_time, expire_time, uses, key_version.to_string()];
            match width {
                Some(width) => writeln!(output, "{}", terminal::flow(&cells(row), width)),
                None => writeln!(output, "{}", row.join("\t")),
            }
        }
        Format::Json => {
            let (uses_left, key_version) = (*uses_left, *key_version);
            json(output, &JsonInfo { line, handle, state, create_time, expire_time, uses_left, key_version })
        }
    }
}

/// Each as wide as its column.
fn cells(row: [String; COLUMNS.len()]) -> Vec<String> {
    row.into_iter().zip(COLUMNS).map(|(cell, (_, width))| format!("{cell:width$}")).collect()
}

/// The place of a refused line: empty, or an object that says why.
fn refused(output: &mut impl Write, line: u64, refusal: &Refusal, format: Format) -> io::Result<()> {
    let error = match (format, refusal) {
        (Format::Text, _) => return output.write_all(b"\n"),
        (Format::Json, Refusal::Here(message)) => JsonFailure { code: "INVALID_ARGUMENT", reason: None, message },
        (Format::Json, Refusal::There(failure)) => {
            JsonFailure { code: failure.code_name(), reason: failure.reason.as_deref(), message: &failure.message }
        }
    };
    json(output, &JsonError { line, error })
}

fn json(output: &mut impl Write, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *output, object)?;
    output.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(line: &str, input: Input) -> Result<(Vec<u8>, Option<i64>, u32), String> {
        item(SecretBytes::new(line.as_bytes().to_vec()), input, None, 0)
            .map(|item| (item.value.into_exposed(), item.ttl.map(|ttl| ttl.seconds), item.max_uses))
    }

    #[test]
    fn lines_hold_values_in_three_ways() {
        assert_eq!(value_of(" 4111 ", Input::Lines).unwrap().0, b" 4111 ", "byte for byte");
        assert_eq!(value_of("AAE=", Input::Base64).unwrap().0, [0, 1]);
        assert_eq!(value_of("{\"value\":\"a\\nb\"}", Input::Ndjson).unwrap().0, b"a\nb");
        let all = "{\"value_base64\":\"AAE=\",\"ttl\":\"90s\",\"max_uses\":3}";
        assert_eq!(value_of(all, Input::Ndjson).unwrap(), (vec![0, 1], Some(90), 3));
    }

    #[test]
    fn refusals_do_not_repeat_the_line_a_11() {
        let bad = [
            ("", Input::Lines),
            ("c4n4ry!", Input::Base64),
            ("c4n4ry", Input::Ndjson),
            ("{\"value\": 12, \"c4n4ry\": 1}", Input::Ndjson),
            ("{\"c4n4ry\": 1}", Input::Ndjson),
            ("{\"value\": \"c4n4ry\", \"max_uses\": \"c4n4ry\"}", Input::Ndjson),
            ("{\"value\": \"x\", \"ttl\": \"c4n4ry\"}", Input::Ndjson),
            ("{\"value\": \"c4n4ry\", \"value_base64\": \"\"}", Input::Ndjson),
        ];
        for (line, input) in bad {
            let refusal = value_of(line, input).unwrap_err();
            assert!(!refusal.contains("c4n4ry"), "{refusal}");
        }
    }

    #[test]
    fn a_value_with_a_line_break_never_shifts_the_lines_after_it() {
        let result = || v1::DetokenizeResult { outcome: Some(detokenize_result::Outcome::Value(b"a\nb".to_vec())) };
        assert!(released(result(), ValueFormat::Text).unwrap().is_err());
        let value = released(result(), ValueFormat::Base64).unwrap().unwrap_or_else(|failure| panic!("{failure}"));
        let mut output = Vec::new();
        write_value(&mut output, 1, &value, ValueFormat::Base64).unwrap();
        write_value(&mut output, 1, &value, ValueFormat::Json).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "YQpi\n{\"line\":1,\"value\":\"a\\nb\"}\n");
    }

    #[test]
    fn what_is_known_of_a_token_has_tabs_for_programs_and_fits_for_people() {
        let info = v1::TokenInfo {
            handle: "ab".repeat(20),
            state: v1::TokenState::Active.into(),
            uses_left: Some(2),
            key_version: 1,
            ..v1::TokenInfo::default()
        };
        let print = |width| {
            let mut output = Vec::new();
            write_info(&mut output, 1, &info, Format::Text, width).unwrap();
            String::from_utf8(output).unwrap()
        };
        assert_eq!(print(None), format!("{}\tACTIVE\t\t\t2\t1\n", "ab".repeat(20)));
        assert!(print(Some(80)).lines().all(|line| line.chars().count() <= 80), "{}", print(Some(80)));
        assert_eq!(print(Some(300)).lines().count(), 1);
    }

    #[test]
    fn a_forgotten_purpose_is_named_and_the_cause_kept() {
        let failure = |reason: &str| Failure { reason: Some(reason.to_owned()), ..Failure::here(String::new()) };
        let advised = |error: client::Error| {
            let error = with_advice_on_purposes(error.into());
            (error.to_string().contains("--purpose refund"), Exit::after(&error))
        };
        assert_eq!(advised(client::Error::Denied(failure("POLICY_DENIED"))), (true, Exit::Denied));
        assert_eq!(advised(client::Error::Invalid(failure(PURPOSE_REQUIRED))), (true, Exit::Usage));
        assert_eq!(advised(client::Error::Invalid(failure("TOO_MANY_ITEMS"))), (false, Exit::Usage));
        assert_eq!(advised(client::Error::Unavailable(failure("SEALED"))), (false, Exit::Unavailable));
    }

    #[test]
    fn refused_lines_keep_their_place() {
        let refusal = Refusal::Here("empty".to_owned());
        let mut output = Vec::new();
        refused(&mut output, 4, &refusal, Format::Text).unwrap();
        refused(&mut output, 4, &refusal, Format::Json).unwrap();
        let expected = "\n{\"line\":4,\"error\":{\"code\":\"INVALID_ARGUMENT\",\"message\":\"empty\"}}\n";
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }
}
