//! D-05: calls that are more than they seem. Each is refused before it costs what it asks for.

use super::raw::{END_STREAM, Heard, Raw, block, frame, headers};
use super::{Arena, GROWTH_AT_MOST};
use crate::frames::{Answer, DATA, call, framed};
use crate::harness::{Client, Identity, Server};
use tonic::Code;

const TOKENIZE: &str = "/cloakroom.v1.TokenService/Tokenize";
const DETOKENIZE: &str = "/cloakroom.v1.TokenService/Detokenize";
const STREAM: &str = "/cloakroom.v1.TokenService/StreamTokenize";
/// Of each attack.
const TIMES: usize = 20;
/// Calls at once that say how long their message will be, and send none of it. Fewer than may be in flight.
const AT_ONCE: u32 = 200;
/// As long as a message may be.
const MESSAGE_BYTES: u32 = 4 << 20;
const EMPTY_ITEMS: usize = 1_000_000;

/// A message's head: whether it is compressed, and its length.
fn head(compressed: u8, length: u32) -> Vec<u8> {
    [&[compressed][..], &length.to_be_bytes()].concat()
}

struct Attack {
    what: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    /// What the caller is told.
    code: Code,
}

fn attack(what: &'static str, path: &'static str, body: Vec<u8>, code: Code) -> Attack {
    Attack { what, path, headers: Vec::new(), body, code }
}

fn attacks() -> Vec<Attack> {
    let empty = |field: u8| framed(&[field, 0].repeat(EMPTY_ITEMS));
    let nested = {
        let items = [0x12, 0].repeat(EMPTY_ITEMS);
        let mut message = vec![0x0a];
        prost::encoding::encode_varint(items.len() as u64, &mut message);
        framed(&[message, items].concat())
    };
    let with = |attack: Attack, name, value| Attack { headers: vec![(name, value)], ..attack };
    let zeros = framed(&vec![0; 1 << 20]);
    vec![
        attack("a length of 4 GiB", TOKENIZE, head(0, u32::MAX), Code::InvalidArgument),
        attack("a length of 4 GiB on a stream", STREAM, head(0, u32::MAX), Code::InvalidArgument),
        attack("a length just above the limit", TOKENIZE, head(0, MESSAGE_BYTES + 1), Code::InvalidArgument),
        attack("a message that says it is compressed", TOKENIZE, head(1, 20), Code::InvalidArgument),
        with(
            attack("gzip", TOKENIZE, [head(1, 20), vec![0x1f; 20]].concat(), Code::Unimplemented),
            "grpc-encoding",
            "gzip",
        ),
        with(attack("an unknown encoding", TOKENIZE, zeros, Code::Unimplemented), "grpc-encoding", "middle-out"),
        attack("a flag that is none", TOKENIZE, head(7, 20), Code::InvalidArgument),
        attack("an unknown method", "/cloakroom.v1.TokenService/Everything", framed(&[]), Code::Unimplemented),
        attack("an unknown service", "/cloakroom.v9.Nothing/Nothing", framed(&[]), Code::Unimplemented),
        attack("a million empty items", TOKENIZE, empty(0x12), Code::InvalidArgument),
        attack("a million empty tokens", DETOKENIZE, empty(0x12), Code::InvalidArgument),
        attack("a million empty items on a stream", STREAM, nested, Code::InvalidArgument),
        attack("a million of a field that is none", TOKENIZE, empty(0x7a), Code::InvalidArgument),
        attack("groups in groups", TOKENIZE, framed(&vec![0x7b; EMPTY_ITEMS]), Code::InvalidArgument),
    ]
}

async fn refused(client: &Client, attack: &Attack) -> Answer {
    let answer = call(client, attack.path, &attack.headers, attack.body.clone()).await;
    answer.unwrap_or_else(|error| panic!("{}: {error}", attack.what))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_more_than_they_seem_are_refused_d_05() {
    let mut arena = Arena::open(|_| {}).await;
    let attacks = attacks();
    let gateway = arena.gateway.clone();
    let making = async {
        let mut wrong = Vec::new();
        for attack in &attacks {
            for _ in 0..TIMES {
                let code = refused(&gateway, attack).await.code();
                if code != attack.code {
                    wrong.push((attack.what, code));
                }
            }
        }
        wrong.dedup();
        wrong
    };
    let (wrong, toll) = arena.endures(&format!("D-05: {} calls, each {TIMES} times", attacks.len()), making).await;
    assert_eq!(wrong, []);
    assert!(toll.growth < GROWTH_AT_MOST, "{}", toll.growth);

    let (server, identity) = (arena.target(), arena.home.identity("gateway"));
    let ((), toll) = arena.endures("D-05: messages that are announced", announce(&server, &identity)).await;
    assert!(toll.growth < GROWTH_AT_MOST, "{}", toll.growth);
    let ((), toll) = arena.endures("D-05: headers without measure", large_headers(&server, &identity)).await;
    assert!(toll.growth < GROWTH_AT_MOST, "{}", toll.growth);
    drop(server);
    arena.close().await;
}

/// Lengths without messages: those that are too long are refused at once, and for the others nothing is set aside that
/// would have to be filled.
async fn announce(server: &Server, identity: &Identity) {
    for length in [u32::MAX, MESSAGE_BYTES + 1, MESSAGE_BYTES] {
        let mut raw = Raw::open(server, identity, &[]).await;
        for number in 0..AT_ONCE {
            let stream = 2 * number + 1;
            let begun = [headers(stream, 0, &block(TOKENIZE, &[])), frame(DATA, 0, stream, &head(0, length))].concat();
            assert!(raw.send(&begun).await);
        }
        assert!(raw.is_read().await, "nobody else's calls on the connection suffer for it");
        if length > MESSAGE_BYTES {
            let heard = raw.until("200 refusals", |heard| heard.ended.len() == AT_ONCE as usize).await;
            assert!(!heard.over && heard.ended.len() == AT_ONCE as usize);
        }
        println!("D-05: {AT_ONCE} messages of {length} bytes announced, {} refused", raw.heard().ended.len());
        raw.go();
    }
}

/// 100,000 keys of metadata, a path of a megabyte: neither fits into what the vault says that headers may be.
async fn large_headers(server: &Server, identity: &Identity) {
    let names: Vec<String> = (0..100_000).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let long = format!("/{}", "a".repeat(1 << 20));
    let value = "v".repeat(20_000);
    for (what, block) in [
        ("100,000 keys", block(TOKENIZE, &many)),
        ("a path of a megabyte", block(&long, &[])),
        ("a value of 20,000 bytes", block(TOKENIZE, &[("x-a", &value)])),
    ] {
        let (mut closed, mut answered) = (0, 0);
        for _ in 0..TIMES {
            let mut raw = Raw::open(server, identity, &[]).await;
            let sent = raw.send(&headers(1, END_STREAM, &block)).await;
            if !sent || !raw.is_read().await {
                closed += 1;
            } else {
                let refused = |heard: &Heard| heard.answered.contains(&1) || heard.resets.contains_key(&1);
                let heard = raw.until("a refusal", refused).await;
                answered += usize::from(refused(&heard));
            }
            raw.go();
        }
        println!("D-05: {what}, {TIMES} times: {closed} connections closed, {answered} calls refused");
        assert_eq!(closed + answered, TIMES, "{what}");
    }
}
