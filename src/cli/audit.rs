//! `audit`: asking the log, and having it prove itself.

mod checkpoint;
mod export;
mod filter;
mod pages;
mod prove;
mod query;
mod report;
mod rows;
mod tail;
mod verify;

use super::Exit;
use crate::event::Event;
use crate::proto::v1;
pub(super) use export::export_rows;
use prost::Message;
use std::io::Write;

/// Ask the audit log, copy it, and verify copies. Each question is itself recorded.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Query(query::Options),
    Export(export::Options),
    Verify(verify::Options),
    Prove(prove::Options),
    Tail(tail::Options),
    Report(report::Options),
    Checkpoint(checkpoint::Options),
}

pub(super) fn run(command: Command, output: &mut impl Write) -> anyhow::Result<Exit> {
    match command {
        Command::Query(options) => query::run(&options, output),
        Command::Export(options) => export::run(&options, output),
        Command::Verify(options) => verify::run(&options, output),
        Command::Prove(options) => prove::run(&options, output),
        Command::Tail(options) => tail::run(&options, output),
        Command::Report(options) => report::run(&options, output),
        Command::Checkpoint(options) => checkpoint::run(&options, output),
    }
}

/// The event behind the message: the same fields under the same numbers.
fn domain(event: &v1::AuditEvent) -> Event {
    Event::decode(event.encode_to_vec().as_slice())
        .expect("both are the same message, field by field: a test holds them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Time;
    use prost::bytes::Bytes;

    #[test]
    fn the_message_and_the_event_are_the_same_field_by_field() {
        let words = || "w".to_owned();
        let bytes = || Bytes::from_static(b"b");
        let whole = Event {
            log_id: words(),
            sequence: 1,
            time: Some(Time { seconds: 2, nanos: 3 }),
            action: 1,
            outcome: 2,
            reason: words(),
            caller: words(),
            certificate_sha256: bytes(),
            access_token: Some(crate::event::AccessTokenInfo {
                issuer: words(),
                subject: words(),
                token_hash: bytes(),
                actor: words(),
            }),
            scope: words(),
            handles: vec![bytes(), Bytes::new()],
            requested: 4,
            succeeded: 5,
            purpose: words(),
            request_hash: bytes(),
            trace_id: words(),
            peer_address: words(),
            policies: vec![words()],
            node: words(),
            reveal: 1,
            rulebook: bytes(),
            item_outcomes: vec![1, 14],
            count: 6,
            first_time: Some(Time { seconds: 7, nanos: 8 }),
            detail: words(),
            salt: bytes(),
        };
        let message = v1::AuditEvent::decode(whole.encode_to_vec().as_slice()).unwrap();
        assert_eq!(message.encode_to_vec(), whole.encode_to_vec());
        assert_eq!(domain(&message), whole);
    }
}
