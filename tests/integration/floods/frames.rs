//! D-04: frames that cost the vault more than the peer, and peers that leave things lying.

use super::raw::{
    CONTINUATION, END_HEADERS, END_STREAM, INITIAL_WINDOW_SIZE, PING, PREFACE, PRIORITY, Raw, SETTINGS, WINDOW_UPDATE,
    block, frame, handshake, headers,
};
use super::{Arena, GROWTH_AT_MOST};
use crate::frames::{DATA, HEADERS, RST_STREAM, framed};
use crate::harness::{Identity, Server, eventually, item, texts};
use cloakroom::proto::v1;
use prost::Message;
use tokio::io::AsyncWriteExt;

const TOKENIZE: &str = "/cloakroom.v1.TokenService/Tokenize";
const DETOKENIZE: &str = "/cloakroom.v1.TokenService/Detokenize";
const STALLED: &str = "cloakroom_connections_closed_total{reason=\"stalled\"}";
const STREAM: &str = "/cloakroom.v1.TokenService/StreamTokenize";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const FRAMES: usize = 100_000;
/// Of the kinds of floods, so many the library reads without end. The others it ends itself.
const FLOODS_AT_LEAST: u64 = 7;
/// Calls whose replies nobody takes. Fewer than may be in flight on one connection.
const UNTAKEN: u32 = 200;
/// Of large replies: 2.4 MB each.
const LARGE: u32 = 3;
const LARGE_VALUES: usize = 40;
const LARGE_BYTES: usize = 60_000;
/// Of a frame's payload, unless both agree on more.
const PAYLOAD_AT_MOST: usize = 16_384;

/// Floods that HTTP/2 has no word against: what is sent first, and what again and again.
fn floods() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let call = headers(1, 0, &block(TOKENIZE, &[]));
    let given_up = [call.clone(), frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())].concat();
    vec![
        ("PING", vec![], frame(PING, 0, 0, b"flooding")),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS with a new table size", vec![], frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0])),
        ("PRIORITY", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 15])),
        ("PRIORITY of streams that are not there", vec![], frame(PRIORITY, 0, 0x7fff_fff1, &[0, 0, 0, 0, 15])),
        ("WINDOW_UPDATE of the connection", vec![], frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("WINDOW_UPDATE of a stream", call.clone(), frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())),
        ("empty DATA", call.clone(), frame(DATA, 0, 1, &[])),
        ("DATA of padding only", call.clone(), frame(DATA, 8, 1, &[1, 0])),
        ("DATA of a byte each", call, frame(DATA, 0, 1, &[0])),
        ("RST_STREAM of one that is closed", given_up, frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
        ("frames of no known type", vec![], frame(0xfa, 0xff, 0, &[0; 32])),
    ]
}

/// What it sends on a stream.
type Bomb = fn(u32) -> Vec<u8>;

/// Header blocks that are more than they seem, each in whole frames, with the stream to be filled in.
fn bombs() -> Vec<(&'static str, Bomb)> {
    vec![
        ("CONTINUATION without an end", |stream| {
            let mut frames = frame(HEADERS, 0, stream, &block(TOKENIZE, &[]));
            let more = frame(CONTINUATION, 0, stream, b"\x10\x01a\x01b");
            frames.extend(more.repeat(2_000));
            frames
        }),
        ("empty CONTINUATION without an end", |stream| {
            let mut frames = frame(HEADERS, 0, stream, &block(TOKENIZE, &[]));
            frames.extend(frame(CONTINUATION, 0, stream, &[]).repeat(2_000));
            frames
        }),
        ("an HPACK bomb", |stream| {
            // One header of 4,000 bytes goes into the table, and then a byte each names it again.
            let mut block = block(TOKENIZE, &[]);
            block.extend(b"\x40\x01a\x7f\xa1\x1e");
            block.extend([b'b'; 4_000]);
            block.extend(vec![0xbe; PAYLOAD_AT_MOST - block.len()]);
            headers(stream, END_STREAM, &block)
        }),
        ("HPACK bombs over many frames", |stream| {
            let mut block = block(TOKENIZE, &[]);
            block.extend(b"\x40\x01a\x7f\xa1\x1e");
            block.extend([b'b'; 4_000]);
            block.extend(vec![0xbe; 8 * PAYLOAD_AT_MOST]);
            headers(stream, END_STREAM, &block)
        }),
        ("table sizes without end", |stream| {
            let sizes = [0x3f, 0xe1, 0x1f, 0x20].repeat(4_000);
            frame(HEADERS, END_HEADERS, stream, &sizes)
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_ask_for_nothing_are_bounded_d_04() {
    let mut arena = Arena::open(|_| {}).await;
    flood(&mut arena, FRAMES).await;
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: D-04 sends a million frames of each kind"]
async fn a_million_frames_of_each_kind_are_bounded_d_04() {
    let mut arena = Arena::open(|_| {}).await;
    flood(&mut arena, 10 * FRAMES).await;
    arena.close().await;
}

async fn flood(arena: &mut Arena, frames: usize) {
    let (server, identity) = (arena.target(), arena.home.identity("gateway"));
    let attack = async {
        for (what, first, again) in floods() {
            let mut raw = Raw::open(&server, &identity, &[]).await;
            assert!(raw.send(&first).await, "{what}");
            let begin = std::time::Instant::now();
            let whole = raw.send(&again.repeat(frames)).await;
            // Where it was not closed, it has at least been read.
            let open = raw.is_read().await;
            println!(
                "D-04: {frames} times {what}: {} after {:.2} s, all of it sent: {whole}, GOAWAY {:?}",
                if open { "read" } else { "closed" },
                begin.elapsed().as_secs_f64(),
                raw.heard().goaway
            );
            raw.go();
        }
    };
    let ((), toll) = arena.endures(&format!("D-04: {frames} frames that ask for nothing, of 12 kinds"), attack).await;
    assert!(toll.growth < GROWTH_AT_MOST, "{}", toll.growth);
    println!("D-04: {} connections closed for a flood", arena.closed("flood"));
    assert!(arena.closed("flood") >= FLOODS_AT_LEAST);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_more_than_they_seem_are_refused_d_04() {
    let mut arena = Arena::open(|_| {}).await;
    let (server, identity) = (arena.target(), arena.home.identity("gateway"));
    let attack = async {
        for (what, bomb) in bombs() {
            let (mut refused, mut closed) = (0, 0);
            // Again and again, on a new connection where the last one was closed.
            let (mut raw, mut stream) = (Raw::open(&server, &identity, &[]).await, 1);
            for _ in 0..50 {
                if raw.send(&bomb(stream)).await && raw.is_read().await {
                    stream += 2;
                    continue;
                }
                closed += 1;
                refused += raw.heard().answered.len() + raw.heard().resets.len();
                (raw, stream) = (Raw::open(&server, &identity, &[]).await, 1);
            }
            let open = (stream as usize - 1) / 2;
            raw.until("answers to all of them", |heard| heard.answered.len() + heard.resets.len() >= open).await;
            refused += raw.heard().answered.len() + raw.heard().resets.len();
            println!("D-04: 50 times {what}: {closed} connections closed, {refused} calls refused");
            assert!(closed + refused >= 50, "{what}");
            raw.go();
        }
    };
    let ((), toll) = arena.endures("D-04: header blocks of 5 kinds", attack).await;
    assert!(toll.growth < GROWTH_AT_MOST, "{}", toll.growth);
    drop(server);
    arena.close().await;
}

// === peers that leave things lying ===

fn call_of(path: &str, stream: u32, message: &impl Message) -> Vec<u8> {
    let head = headers(stream, 0, &block(path, &[]));
    let body = framed(&message.encode_to_vec());
    let last = body.chunks(PAYLOAD_AT_MOST).count() - 1;
    let pieces = body.chunks(PAYLOAD_AT_MOST).enumerate();
    let frames = pieces.map(|(number, piece)| frame(DATA, u8::from(number == last) * END_STREAM, stream, piece));
    [head, frames.collect::<Vec<_>>().concat()].concat()
}

/// Makes calls and opens no window for their replies, but answers, and asks, whatever else there is.
async fn takes_no_reply(server: &Server, identity: &Identity, calls: u32, call: impl Fn(u32) -> Vec<u8>) -> usize {
    let mut raw = Raw::open(server, identity, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    // Until the vault has opened its window, 64 KiB are all that may be sent.
    assert!(raw.is_read().await);
    for number in 0..calls {
        // On a busy machine the first ones have lain for long enough before the last one is sent.
        if !raw.send(&call(2 * number + 1)).await {
            break;
        }
    }
    let mut pings = 0;
    while raw.is_read().await {
        pings += 1;
        // It could go on for ever; so often that no frame counts as a flood.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let heard = raw.closed().await;
    println!("D-04: GOAWAY {:?}, {} calls were answered as far as that goes", heard.goaway, heard.answered.len());
    assert_eq!(heard.data, 0, "no window was opened");
    pings
}

/// With its windows wide open it reads nothing of what comes: no ping reaches it, and no farewell.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_its_socket_is_closed_d_04() {
    const CALLS: u32 = 8;
    let mut arena = Arena::open(|command| {
        command.env("CLOAKROOM_SERVER__STALL_TIMEOUT", "2s");
    })
    .await;
    let (server, payments) = (arena.target(), arena.home.identity("payments"));
    let value = vec![7; LARGE_BYTES];
    let tokens = texts(&arena.gateway.tokenize("pan", &vec![&value[..]; LARGE_VALUES]).await);
    let purpose = "test".to_owned();
    let detokenize = v1::DetokenizeRequest { scope: "pan".to_owned(), tokens, purpose, ..Default::default() };
    let attack = async {
        let mut stream = handshake(&server, &payments).await.unwrap();
        let settings = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &0x7fff_ffff_u32.to_be_bytes()].concat();
        let window = frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        let mut all = [PREFACE, &frame(SETTINGS, 0, 0, &settings), &window].concat();
        for number in 0..CALLS {
            all.extend(call_of(DETOKENIZE, 2 * number + 1, &detokenize));
        }
        stream.write_all(&all).await.unwrap();
        stream.flush().await.unwrap();
        eventually("the vault closes it", || async { (server.metric(STALLED) > 0).then_some(()) }).await;
    };
    let ((), toll) = arena.endures("D-04: a socket that is never read", attack).await;
    assert!(arena.closed("stalled") == 1 && toll.growth < GROWTH_AT_MOST, "{}", toll.growth);
    drop(server);
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_no_reply_is_not_waited_for_without_end_d_04() {
    let mut arena = Arena::open(|command| {
        command.env("CLOAKROOM_SERVER__STALL_TIMEOUT", "2s");
    })
    .await;
    let (server, gateway) = (arena.target(), arena.home.identity("gateway"));
    let items = vec![item(b"4111111111111111"); 50];
    let tokenize = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
    let attack = takes_no_reply(&server, &gateway, UNTAKEN, |stream| call_of(TOKENIZE, stream, &tokenize));
    let (pings, toll) = arena.endures("D-04: replies that no window is opened for", attack).await;
    println!("D-04: {pings} times it showed that it was there");
    assert!(arena.closed("stalled") == 1 && toll.growth < GROWTH_AT_MOST, "{}", toll.growth);

    let value = vec![7; LARGE_BYTES];
    let large = texts(&arena.gateway.tokenize("pan", &vec![&value[..]; LARGE_VALUES]).await);
    let detokenize = v1::DetokenizeRequest {
        scope: "pan".to_owned(),
        tokens: large,
        purpose: "test".to_owned(),
        ..Default::default()
    };
    let payments = arena.home.identity("payments");
    let attack = takes_no_reply(&server, &payments, LARGE, |stream| call_of(DETOKENIZE, stream, &detokenize));
    let (_, toll) = arena.endures("D-04: large replies that no window is opened for", attack).await;
    let replies = u64::from(LARGE) * (LARGE_VALUES * LARGE_BYTES) as u64;
    println!("D-04: {LARGE} replies of {replies} bytes in all");
    assert!(arena.closed("stalled") == 2 && toll.growth < GROWTH_AT_MOST, "{}", toll.growth);

    // A message that is begun: the only one, one of many, and one for which nobody needs a permission.
    for path in [TOKENIZE, STREAM, REFLECTION] {
        let attack = async {
            let mut raw = Raw::open(&server, &gateway, &[]).await;
            for number in 0..UNTAKEN {
                let stream = 2 * number + 1;
                let begun = frame(DATA, 0, stream, &[0, 0, 0, 0, 99, 1]);
                if !raw.send(&[headers(stream, 0, &block(path, &[])), begun].concat()).await {
                    break;
                }
            }
            while raw.is_read().await {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let before = arena.closed("stalled");
        let ((), toll) = arena.endures(&format!("D-04: messages that never end, {path}"), attack).await;
        assert!(arena.closed("stalled") == before + 1 && toll.growth < GROWTH_AT_MOST, "{path}");
    }
    drop(server);
    arena.close().await;
}
