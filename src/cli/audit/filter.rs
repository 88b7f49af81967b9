//! What is asked of events: the options that narrow a question, and the filter that they make.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;

use crate::caller::SpiffeId;
use crate::cli::moment::moment;
use crate::cli::{Connection, Usage, input};
use crate::proto::v1;
use crate::secret::SecretBytes;

/// A token or request id is short; more than this is not one.
const TOKEN_BYTES: u64 = 4_096;

/// Which events. All conditions that are given must hold.
#[derive(clap::Args)]
pub(super) struct Conditions {
    /// Of this caller: a whole SPIFFE ID, or its path in the trust domain of the profile's own certificate, such as payments.
    #[arg(long, value_name = "CALLER", value_parser = caller)]
    caller: Option<String>,
    /// In this scope.
    #[arg(long)]
    scope: Option<String>,
    /// About the token with this handle.
    #[arg(long, conflicts_with = "token_file")]
    handle: Option<String>,
    /// About the token that stands in this file, or in standard input for -; with --scope. Only its handle is recorded.
    #[arg(long, visible_alias = "token", value_name = "FILE", requires = "scope", value_parser = SecretFile)]
    token_file: Option<PathBuf>,
    /// Only this action.
    #[arg(long, value_enum)]
    action: Option<Action>,
    /// Only with this outcome.
    #[arg(long, value_enum, conflicts_with_all = ["denied", "failed"])]
    outcome: Option<Outcome>,
    /// Only what was denied: short for --outcome denied.
    #[arg(long, conflicts_with = "failed")]
    denied: bool,
    /// Only what failed: short for --outcome failed.
    #[arg(long)]
    failed: bool,
    /// Only with this purpose, exactly.
    #[arg(long)]
    purpose: Option<String>,
    /// Only of this trace: 32 hexadecimal digits, as in a W3C traceparent.
    #[arg(long, value_name = "TRACE ID")]
    trace_id: Option<String>,
    /// Of the call whose request id stands in this file, or in standard input for -. Only its keyed hash is recorded.
    #[arg(long, value_name = "FILE")]
    request_id_file: Option<PathBuf>,
    /// From this time on: RFC 3339, or how long ago, such as 2h.
    #[arg(long, value_parser = moment)]
    since: Option<prost_types::Timestamp>,
}

/// The name of a file that holds a secret, or `-`. What is no file may be the secret itself: it is not repeated.
#[derive(Clone)]
struct SecretFile;

/// Actions by the names that people use.
#[derive(Clone, Copy, ValueEnum)]
enum Action {
    Tokenize,
    Detokenize,
    Inspect,
    Renew,
    Revoke,
    QueryAudit,
    Connect,
    Start,
    Stop,
    Reload,
    Clock,
    Purge,
    CreateKey,
    RotateKeys,
    Rewrap,
    Seal,
    Unseal,
    Backup,
    Restore,
    Shred,
    Erase,
    Hold,
    Export,
    Import,
    Verify,
    Approve,
    Honey,
    Unusual,
}

#[derive(Clone, Copy, ValueEnum)]
enum Outcome {
    Allowed,
    Denied,
    Failed,
}

impl Conditions {
    /// The filter, with what stands in files.
    ///
    /// # Errors
    /// If a file or the profile can't be read, or a short name can't be completed.
    pub(super) fn filter(&self, connection: &Connection) -> anyhow::Result<v1::AuditFilter> {
        let from_file =
            |file: &Option<PathBuf>, what| file.as_deref().map_or(Ok(String::new()), |file| read_one(file, what));
        let outcome = match (self.denied, self.failed, self.outcome) {
            (true, ..) => v1::Outcome::Denied,
            (_, true, _) => v1::Outcome::Failed,
            (.., outcome) => outcome.map_or(v1::Outcome::Unspecified, Outcome::on_the_wire),
        };
        let whole = |name: &String| whole_caller(name, connection);
        Ok(v1::AuditFilter {
            caller: self.caller.as_ref().map(whole).transpose()?.unwrap_or_default(),
            scope: self.scope.clone().unwrap_or_default(),
            handle: hexadecimal(self.handle.as_ref(), 40, "--handle")?,
            token: from_file(&self.token_file, "token")?,
            action: self.action.map_or(v1::Action::Unspecified, Action::on_the_wire).into(),
            outcome: outcome.into(),
            start_time: self.since,
            end_time: None,
            purpose: self.purpose.clone().unwrap_or_default(),
            trace_id: hexadecimal(self.trace_id.as_ref(), 32, "--trace-id")?,
            request_id: from_file(&self.request_id_file, "request id")?,
        })
    }
}

/// A SPIFFE ID, or a path that is one together with a trust domain.
fn caller(text: &str) -> Result<String, String> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("spiffe://domain/{text}") };
    match SpiffeId::parse(&whole) {
        Ok(_) => Ok(text.to_owned()),
        Err(problem) => Err(format!(
            "{problem}; write a SPIFFE ID, such as spiffe://dev.cloakroom.internal/payments, or its path alone, such as \
             payments"
        )),
    }
}

/// `text` in lower case, as the log has it, if it is that many hexadecimal digits. What can't be right is told here, so that it becomes no event of the log. It
/// is not repeated: somebody may have given a token.
fn hexadecimal(text: Option<&String>, digits: usize, what: &str) -> anyhow::Result<String> {
    match text {
        None => Ok(String::new()),
        Some(text) if text.len() == digits && text.bytes().all(|letter| letter.is_ascii_hexdigit()) => {
            Ok(text.to_ascii_lowercase())
        }
        Some(_) => Err(Usage(format!("{what}: expected {digits} hexadecimal digits and nothing else")).into()),
    }
}

/// `payments` is meant in the domain of whoever asks.
fn whole_caller(name: &str, connection: &Connection) -> anyhow::Result<String> {
    if name.contains("://") {
        return Ok(name.to_owned());
    }
    let own = connection.load()?.own_id()?;
    Ok(format!("spiffe://{}/{name}", own.trust_domain()))
}

impl TypedValueParser for SecretFile {
    type Value = PathBuf;

    fn parse_ref(&self, command: &clap::Command, _: Option<&clap::Arg>, value: &OsStr) -> Result<PathBuf, clap::Error> {
        if value == "-" || Path::new(value).exists() {
            return Ok(value.into());
        }
        let message = "there is no file of the name that was given. Tokens are never arguments, which others on the \
                       machine can see: name a file that holds it, or - for standard input\n";
        Err(clap::Error::raw(ErrorKind::InvalidValue, message).with_cmd(command))
    }
}

/// The one word in `file`, without white space around it. It is secret, so it comes from no argument.
fn read_one(file: &Path, what: &str) -> anyhow::Result<String> {
    let mut content = SecretBytes::new(Vec::new());
    input::open(Some(file))?
        .take(TOKEN_BYTES)
        .read_to_end(content.expose_mut())
        .with_context(|| format!("cannot read a {what} from {}", file.display()))?;
    let word = std::str::from_utf8(content.expose()).map(str::trim).unwrap_or_default();
    if word.is_empty() || word.contains(char::is_whitespace) {
        return Err(Usage(format!("{}: expected one {what} and nothing else", file.display())).into());
    }
    Ok(word.to_owned())
}

impl Action {
    fn on_the_wire(self) -> v1::Action {
        let name = self.to_possible_value().map(|value| value.get_name().to_uppercase().replace('-', "_"));
        name.and_then(|name| v1::Action::from_str_name(&format!("ACTION_{name}")))
            .expect("every action of the command line is one of the protobuf: a test goes through them")
    }
}

impl Outcome {
    fn on_the_wire(self) -> v1::Outcome {
        match self {
            Self::Allowed => v1::Outcome::Allowed,
            Self::Denied => v1::Outcome::Denied,
            Self::Failed => v1::Outcome::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_its_counterpart() {
        for action in Action::value_variants() {
            assert_ne!(action.on_the_wire(), v1::Action::Unspecified);
        }
        // All but UNSPECIFIED, and none twice.
        let known = (1..64).filter(|number| v1::Action::try_from(*number).is_ok()).count();
        assert_eq!(Action::value_variants().len(), known);
    }

    #[test]
    fn callers_have_whole_and_short_names() {
        assert_eq!(caller("spiffe://a.example/b").unwrap(), "spiffe://a.example/b");
        assert_eq!(caller("payments").unwrap(), "payments");
        assert_eq!(caller("region/eu/payments").unwrap(), "region/eu/payments");
        for wrong in ["", "/payments", "pay ments", "http://a/b", "spiffe://a", "a/../b"] {
            assert!(caller(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_handle_is_told_and_not_repeated() {
        let told = |text: &str| hexadecimal(Some(&text.to_owned()), 4, "--handle");
        assert_eq!(told("0aF9").unwrap(), "0af9");
        assert_eq!(hexadecimal(None, 4, "--handle").unwrap(), "");
        for wrong in ["", "0af", "0af91", "0afg", "pan_"] {
            let error = told(wrong).unwrap_err().to_string();
            assert_eq!(error, "--handle: expected 4 hexadecimal digits and nothing else", "{wrong:?}");
        }
    }

    #[test]
    fn a_token_comes_from_a_file_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "pan_abc\n").unwrap();
        assert_eq!(read_one(&file, "token").unwrap(), "pan_abc");
        for wrong in ["", "\n", "two tokens", "one\ntwo\n"] {
            std::fs::write(&file, wrong).unwrap();
            assert!(read_one(&file, "token").is_err(), "{wrong:?}");
        }
    }
}
