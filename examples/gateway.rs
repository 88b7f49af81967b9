//! A gateway in small: JSON objects come in, one a line, and go on with a token in the place of one field.
//!
//! ```sh
//! cargo run --release --no-default-features --features client --example gateway -- PROFILE SCOPE FIELD < orders.jsonl
//! ```
//!
//! What can't be tokenized does not go on: its line is left out, and standard error says which and why. Exit status 1 if there was
//! one.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use cloakroom::client::{Client, Profile, Settings, Tokenize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

/// Lines for one call, at the most: a call takes a thousand, and of what came together each waits for all.
const AT_ONCE: usize = 100;

/// A line: its number, the object, and the value that was taken out of it.
struct Order {
    line: usize,
    object: Map<String, Value>,
    value: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile, scope, field] = arguments.as_slice() else {
        return Err("usage: gateway PROFILE SCOPE FIELD < ORDERS".into());
    };
    let mut settings = Settings::new(Profile::load(Path::new(profile))?)?;
    // Somebody waits for a payment: better an error soon than an answer late.
    settings.deadline = Duration::from_secs(5);
    let client = Client::new(settings)?;
    let mut orders = orders(field.clone());
    let (mut waiting, mut all_went) = (Vec::new(), true);
    // Whatever has come until now goes together; nobody waits for a batch to fill.
    while orders.recv_many(&mut waiting, AT_ONCE).await > 0 {
        let (good, bad): (Vec<_>, Vec<_>) = waiting.drain(..).partition(Result::is_ok);
        for problem in bad.into_iter().filter_map(Result::err) {
            eprintln!("{problem}");
            all_went = false;
        }
        all_went &= pass_on(&client, scope, field, good.into_iter().flatten().collect()).await?;
    }
    Ok(all_went)
}

/// Tokenizes what was taken out and prints the objects with their tokens. Whether all went well. A call that fails as a whole
/// is tried again by the client as long as that is safe; then it ends the gateway.
async fn pass_on(client: &Client, scope: &str, field: &str, mut orders: Vec<Order>) -> Result<bool, Box<dyn Error>> {
    if orders.is_empty() {
        return Ok(true);
    }
    let values = orders.iter_mut().map(|order| std::mem::take(&mut order.value).into_bytes());
    let answer = client.tokenize(Tokenize::new(scope, values)).await?;
    let mut all_went = true;
    for (mut order, item) in orders.into_iter().zip(answer.items) {
        match item {
            Ok(issued) => {
                order.object.insert(field.to_owned(), issued.token.expose().as_str().into());
                println!("{}", Value::Object(order.object));
            }
            Err(failure) => {
                eprintln!("line {}: {failure}", order.line);
                all_went = false;
            }
        }
    }
    Ok(all_went)
}

/// Reads standard input on a thread of its own, since that waits. What is wrong with a line is said without repeating any of it.
fn orders(field: String) -> mpsc::Receiver<Result<Order, String>> {
    let (send, receive) = mpsc::channel(AT_ONCE);
    tokio::task::spawn_blocking(move || {
        for (number, text) in std::io::stdin().lock().lines().enumerate() {
            let line = number + 1;
            let parsed = text.ok().and_then(|text| serde_json::from_str::<Map<String, Value>>(&text).ok());
            let order = match parsed.map(|mut object| (object.insert(field.clone(), Value::Null), object)) {
                Some((Some(Value::String(value)), object)) => Ok(Order { line, object, value }),
                Some(_) => Err(format!("line {line}: it has no text in the field {field}")),
                None => Err(format!("line {line}: not a JSON object")),
            };
            if send.blocking_send(order).is_err() {
                return;
            }
        }
    });
    receive
}
