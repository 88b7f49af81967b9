//! A service in small: it gets orders with tokens in them, one JSON object a line, and needs the values for a moment.
//!
//! ```sh
//! cargo run --release --no-default-features --features client --example service -- PROFILE SCOPE FIELD PURPOSE < orders.jsonl
//! ```
//!
//! The value goes to whoever takes the money (here a function that only looks at it) and nowhere else: not into a variable
//! that lives on, not into the output, not into the log. Exit status 1 if one could not be had.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;

use cloakroom::client::{self, Client, Detokenize, Profile, Settings, Token};
use cloakroom::secret::SecretBytes;
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("service: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile, scope, field, purpose] = arguments.as_slice() else {
        return Err("usage: service PROFILE SCOPE FIELD PURPOSE < ORDERS".into());
    };
    let client = Client::new(Settings::new(Profile::load(Path::new(profile))?)?)?;
    let mut all_went = true;
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line: Value = serde_json::from_str(&line?).map_err(|_| format!("line {}: not JSON", number + 1))?;
        let token = line[field].as_str().ok_or_else(|| format!("line {}: no text in {field}", number + 1))?;
        let call = Detokenize::new(scope, purpose, [Token::new(token.to_owned())]);
        match client.detokenize(call).await {
            Ok(answer) => {
                // By this number the auditor finds who saw the value, when and what for.
                let event = answer.receipt.sequence;
                for item in answer.items {
                    match item {
                        Ok(value) => println!("order {}: {} (event {event})", number + 1, charge(&value)),
                        Err(failure) => {
                            eprintln!("order {}: {failure} (event {event})", number + 1);
                            all_went = false;
                        }
                    }
                }
            }
            // A policy is missing, or we ask for what is not ours: no attempt will change that.
            Err(error @ client::Error::Denied(_)) => return Err(error.into()),
            Err(error) => {
                eprintln!("order {}: {error}", number + 1);
                all_went = false;
            }
        }
    }
    Ok(all_went)
}

/// Stands for the call to whoever takes the money. The value wipes itself when its owner lets it go.
fn charge(value: &SecretBytes) -> String {
    format!("charged a card of {} digits", value.len())
}
