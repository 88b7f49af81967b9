//! D-02 to D-04: calls that are begun and given up, by the peer or by making the vault do it.

use super::raw::{
    END_STREAM, ENHANCE_YOUR_CALM, Heard, INITIAL_WINDOW_SIZE, Raw, WINDOW_UPDATE, block, frame, headers,
};
use super::{Arena, GROWTH_AT_MOST};
use crate::frames::{DATA, RST_STREAM, framed};
use crate::harness::{Identity, Server, item};
use cloakroom::proto::v1;
use prost::Message;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

const TOKENIZE: &str = "/cloakroom.v1.TokenService/Tokenize";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const CANCEL: u32 = 8;
/// As `src/server/workers.rs` has it.
const LOCAL_RESETS_AT_MOST: usize = 1024;
/// Calls that are begun at once where the vault is to accept each.
const ACCEPTED_AT_ONCE: u32 = 32;

/// HEADERS and RST_STREAM of so many calls, from this stream on.
fn given_up(first: u32, count: u32) -> Vec<u8> {
    let block = block(TOKENIZE, &[]);
    let streams = (0..count).map(|number| first + 2 * number);
    streams.flat_map(|stream| [headers(stream, 0, &block), reset(stream)].concat()).collect()
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// Each connection sends so many at once; the vault hears them before it could have accepted one.
async fn burst(server: &Server, identity: &Identity, connections: u32, each: u32) -> Vec<Heard> {
    let bytes = given_up(1, each);
    let mut heard = Vec::new();
    for _ in 0..connections {
        let mut raw = Raw::open(server, identity, &[]).await;
        let _whether_all_was_taken = raw.send(&bytes).await;
        heard.push(raw.closed().await);
    }
    heard
}

/// Each call is accepted before it is given up, so that the library's limit on those that were not says nothing. With a
/// whole message in it, its work has begun, too. How many there were before the vault had enough.
async fn accepted(server: &Server, identity: &Identity, most: u32, message: Option<&[u8]>) -> u32 {
    let mut raw = Raw::open(server, identity, &[]).await;
    let block = block(TOKENIZE, &[]);
    let mut done = 0;
    while done < most {
        let streams: Vec<u32> = (0..ACCEPTED_AT_ONCE).map(|number| 2 * (done + number) + 1).collect();
        let mut begun = Vec::new();
        for stream in &streams {
            begun.extend(headers(*stream, 0, &block));
            if let Some(message) = message {
                begun.extend(frame(DATA, END_STREAM, *stream, message));
            }
        }
        if !raw.send(&begun).await || !raw.is_read().await {
            return done;
        }
        let resets: Vec<u8> = streams.iter().flat_map(|stream| reset(*stream)).collect();
        if !raw.send(&resets).await || !raw.is_read().await {
            return done;
        }
        done += ACCEPTED_AT_ONCE;
    }
    raw.go();
    done
}

/// What the vault says last is lost where the kernel throws away what a closed connection still had.
fn were_told_to_calm_down(heard: &[Heard]) {
    let told = heard.iter().filter(|heard| heard.goaway == Some(ENHANCE_YOUR_CALM)).count();
    println!("D-02: {} connections closed, {told} with ENHANCE_YOUR_CALM", heard.len());
    assert!(told > 0 && heard.iter().all(|heard| heard.over), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gives_calls_up_at_once_is_cut_off_d_02() {
    let mut arena = Arena::open(|_| {}).await;
    resets(&mut arena, 20, 1_000, 6_000).await;
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: D-02 begins a million calls and gives each up"]
async fn a_million_calls_that_are_given_up_cost_little_d_02() {
    let mut arena = Arena::open(|_| {}).await;
    resets(&mut arena, 1_000, 1_000, 60_000).await;
    arena.close().await;
}

async fn resets(arena: &mut Arena, connections: u32, each: u32, most: u32) {
    let (server, identity) = (arena.target(), arena.home.identity("gateway"));
    let what = format!("D-02: {connections} times {each} calls given up at once");
    let (heard, toll) = arena.endures(&what, burst(&server, &identity, connections, each)).await;
    were_told_to_calm_down(&heard);
    assert!(toll.growth < GROWTH_AT_MOST);
    let attack = accepted(&server, &identity, most, None);
    let (done, toll) = arena.endures("D-02: calls given up once accepted", attack).await;
    println!("D-02: {done} of {most} taken, {} connections closed for it", arena.closed("flood"));
    assert!(done < most && toll.growth < GROWTH_AT_MOST);
    let request = v1::TokenizeRequest { scope: "pan".to_owned(), items: vec![item(b"x")], ..Default::default() };
    let message = framed(&request.encode_to_vec());
    let attack = accepted(&server, &identity, most / 4, Some(&message));
    let (done, toll) = arena.endures("D-02: whole calls given up while they work", attack).await;
    println!("D-02: {done} of {} taken", most / 4);
    assert!(toll.growth < GROWTH_AT_MOST);
}

// === answers that are given up on their way ===

/// As little as `server.max_bytes_in_flight` can be, and as many answers as would fill it if none was ever forgotten.
const IN_FLIGHT: &str = "32MiB";
const GIVEN_UP: u32 = 4_000;
/// On one connection: of more, the vault would close it.
const OF_A_CONNECTION: u32 = 2_000;

/// Asks what anybody may ask, for answers of some kilobytes, takes a byte of each, and gives it up. The connection stays.
async fn half_answered(server: &Server, identity: &Identity) -> Raw {
    let message_request = Some(MessageRequest::FileContainingSymbol("cloakroom.v1.TokenService".to_owned()));
    let request = framed(&ServerReflectionRequest { message_request, ..Default::default() }.encode_to_vec());
    let mut raw = Raw::open(server, identity, &[(INITIAL_WINDOW_SIZE, 1)]).await;
    let block = block(REFLECTION, &[]);
    for round in 0..OF_A_CONNECTION / ACCEPTED_AT_ONCE {
        let first = 2 * round * ACCEPTED_AT_ONCE + 1;
        let streams = (0..ACCEPTED_AT_ONCE).map(|number| first + 2 * number);
        let ask = |stream| [headers(stream, 0, &block), frame(DATA, 0, stream, &request)].concat();
        assert!(raw.send(&streams.clone().flat_map(ask).collect::<Vec<_>>()).await);
        let bytes = usize::try_from((round + 1) * ACCEPTED_AT_ONCE).unwrap();
        let heard = raw.until("a byte of each answer", |heard| heard.data >= bytes).await;
        assert!(!heard.over, "{heard:?}");
        assert!(raw.send(&streams.flat_map(reset).collect::<Vec<_>>()).await && raw.is_read().await);
    }
    raw
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_given_up_on_its_way_holds_nothing_d_04() {
    let mut arena = Arena::open(|vault| _ = vault.env("CLOAKROOM_SERVER__MAX_BYTES_IN_FLIGHT", IN_FLIGHT)).await;
    let server = arena.target();
    let nobody = arena.home.authority().client("spiffe://dev.cloakroom.internal/nobody");
    let attack = async {
        let mut open = Vec::new();
        for _ in 0..GIVEN_UP / OF_A_CONNECTION {
            open.push(half_answered(&server, &nobody).await);
        }
        open
    };
    let (open, toll) = arena.endures("D-04: answers given up on their way", attack).await;
    // They are still there, and nothing of what they asked for is.
    arena.promise().await;
    open.into_iter().for_each(Raw::go);
    assert!(toll.growth < GROWTH_AT_MOST);
    drop(server);
    arena.close().await;
}

// === resets by the vault ===

/// What it sends on a stream, with the header block of a call.
type Provocation = fn(u32, &[u8]) -> Vec<u8>;

/// Ways to have the vault reset a stream of its own accord, each for one stream.
fn provocations() -> Vec<(&'static str, Provocation)> {
    vec![
        ("a window that is opened by nothing", |stream, block| {
            [headers(stream, 0, block), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
        }),
        ("a window that overflows", |stream, block| {
            let most = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
            [headers(stream, 0, block), most.clone(), most].concat()
        }),
        ("DATA after the end", |stream, block| {
            [headers(stream, END_STREAM, block), frame(DATA, 0, stream, b"more")].concat()
        }),
        ("headers that HTTP/2 forbids", |stream, block| {
            let forbidden = [block, b"\x10\x0aconnection\x05close"].concat();
            headers(stream, END_STREAM, &forbidden)
        }),
        ("more streams than are allowed", |stream, block| headers(stream, 0, block)),
    ]
}

/// Each provocation on a connection of its own, as often as the vault takes it.
async fn provoke(server: &Server, identity: &Identity, times: u32) -> Vec<(&'static str, Heard)> {
    let block = block(TOKENIZE, &[]);
    let mut heard = Vec::new();
    for (what, provocation) in provocations() {
        let mut raw = Raw::open(server, identity, &[]).await;
        for number in 0..times {
            if !raw.send(&provocation(2 * number + 1, &block)).await {
                break;
            }
        }
        // Where the vault found nothing wrong with it, it has at least read all of it.
        if raw.is_read().await {
            heard.push((what, raw.heard()));
            raw.go();
        } else {
            heard.push((what, raw.closed().await));
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_vault_reset_its_calls_is_cut_off_d_03() {
    let mut arena = Arena::open(|_| {}).await;
    let (server, identity) = (arena.target(), arena.home.identity("gateway"));
    let (heard, toll) =
        arena.endures("D-03: resets that the vault is made to do", provoke(&server, &identity, 5_000)).await;
    for (what, heard) in &heard {
        println!(
            "D-03: {what}: {} streams reset, closed: {}, GOAWAY {:?}",
            heard.resets.len(),
            heard.over,
            heard.goaway
        );
        assert!(heard.resets.len() <= LOCAL_RESETS_AT_MOST, "{what}: {}", heard.resets.len());
    }
    // At least one of them must have come to that limit, or nothing of it was tried.
    assert!(heard.iter().any(|(_, heard)| heard.goaway == Some(ENHANCE_YOUR_CALM)));
    assert!(toll.growth < GROWTH_AT_MOST);
    drop(server);
    arena.close().await;
}
