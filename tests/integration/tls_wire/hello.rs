//! ClientHellos, right and wrong, byte by byte.

use super::{Attack, End, PATIENCE, read_to_end};
use crate::forge::Dice;
use crate::harness::{Home, Server};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CHANGE_CIPHER_SPEC: u8 = 20;

const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// What goes into a ClientHello: all of it right until it is changed.
#[derive(Clone)]
struct Hello {
    version: [u8; 2],
    session: Vec<u8>,
    suites: Vec<u16>,
    compression: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// A hello that gets a ServerHello: TLS 1.3, X25519, h2.
    fn good() -> Self {
        let share = [&[0, 36, 0, 0x1d, 0, 32][..], &[9; 32]].concat();
        Self {
            version: [3, 3],
            session: vec![5; 32],
            suites: vec![0x1301, 0x1302, 0x1303],
            compression: vec![0],
            extensions: vec![
                (0, b"\0\x0c\0\0\x09localhost".to_vec()),
                (10, vec![0, 4, 0, 0x1d, 0, 0x17]),
                (13, vec![0, 6, 4, 3, 8, 4, 8, 7]),
                (16, vec![0, 3, 2, b'h', b'2']),
                (43, vec![2, 3, 4]),
                (51, share),
            ],
        }
    }

    fn with(mut self, number: u16, value: &[u8]) -> Self {
        match self.extensions.iter_mut().find(|(held, _)| *held == number) {
            Some((_, held)) => *held = value.to_vec(),
            None => self.extensions.push((number, value.to_vec())),
        }
        self
    }

    fn without(mut self, number: u16) -> Self {
        self.extensions.retain(|(held, _)| *held != number);
        self
    }

    /// One more extension of a number that may be there already.
    fn and(mut self, number: u16, value: &[u8]) -> Self {
        self.extensions.push((number, value.to_vec()));
        self
    }

    /// The handshake message.
    fn message(&self) -> Vec<u8> {
        let suites: Vec<u8> = self.suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(number, value)| [&number.to_be_bytes(), &short(value)[..]].concat())
            .collect();
        let session = [&[u8::try_from(self.session.len()).unwrap()], &self.session[..]].concat();
        let compression = [&[u8::try_from(self.compression.len()).unwrap()], &self.compression[..]].concat();
        let body = [&self.version[..], &[7; 32], &session, &short(&suites), &compression, &short(&extensions)].concat();
        message(1, &body)
    }

    fn record(&self) -> Vec<u8> {
        record(HANDSHAKE, &self.message())
    }
}

/// With its length in two bytes.
fn short(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// A record of TLS 1.2's looks, as all of them have.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1], &short(content)[..]].concat()
}

/// The description in an alert, if that is what was answered.
pub(super) fn alert(answer: &[u8]) -> Option<u8> {
    (answer.len() >= 7 && answer[0] == ALERT).then(|| answer[6])
}

// === T-06 ===

/// What older clients say first, and the alert that is due.
pub(super) fn old_protocols() -> Vec<(&'static str, Vec<u8>, Option<u8>)> {
    let old = |version: [u8; 2]| Hello { version, ..Hello::good().without(43).without(51) };
    let with = |suites: &[u16]| Hello { suites: suites.to_vec(), ..old([3, 3]) }.record();
    let versions = |listed: &[u8]| Hello::good().with(43, listed).record();
    let (version, malformed) = (Some(PROTOCOL_VERSION), Some(DECODE_ERROR));
    let ssl2 = [&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10][..], &[1, 0, 0x80, 7, 0, 0xc0], &[0x5a; 31]].concat();
    let heartbeat = [old([3, 3]).record(), vec![24, 3, 3, 0, 3, 1, 0x40, 0]].concat();
    vec![
        ("SSL 2", ssl2, malformed),
        ("SSL 3", old([3, 0]).record(), version),
        ("TLS 1.0", old([3, 1]).record(), version),
        ("TLS 1.1", old([3, 2]).record(), version),
        ("TLS 1.2", old([3, 3]).record(), version),
        ("TLS 1.2 with all that is good", with(&[0xc02b, 0xc02f, 0xcca9]), version),
        ("TLS 1.2 with RC4", with(&[5, 4, 0xc007, 0xc011]), version),
        ("TLS 1.2 with 3DES", with(&[10, 0xc008, 0xc012, 0x16]), version),
        ("TLS 1.2 with CBC", with(&[0x2f, 0x35, 0xc009, 0xc00a, 0xc023]), version),
        ("TLS 1.2 for export", with(&[3, 6, 8, 0x14, 0x62]), version),
        ("TLS 1.2 without encryption", with(&[1, 2, 0x3b, 0xc006]), version),
        ("TLS 1.2 without authentication", with(&[0x18, 0x34, 0xc018]), version),
        ("a fallback", with(&[0xc02b, 0x5600]), version),
        ("secure renegotiation", old([3, 3]).with(0xff01, &[0]).record(), version),
        ("a renegotiation that goes on", old([3, 3]).with(0xff01, &[12; 13]).record(), version),
        ("with compression", Hello { compression: vec![1, 0], ..old([3, 3]) }.record(), version),
        ("TLS 1.3 with compression", Hello { compression: vec![1, 0], ..Hello::good() }.record(), Some(47)),
        ("a heartbeat", heartbeat, version),
        ("a list with TLS 1.2 alone", versions(&[2, 3, 3]), version),
        ("a draft of TLS 1.3", versions(&[2, 0x7f, 28]), version),
        ("a later TLS", versions(&[2, 3, 5]), version),
        ("no protocol named", Hello::good().without(16).record(), Some(NO_APPLICATION_PROTOCOL)),
        ("http/1.1", Hello::good().with(16, b"\0\x09\x08http/1.1").record(), Some(NO_APPLICATION_PROTOCOL)),
        ("h2c and h3", Hello::good().with(16, b"\0\x07\x03h2c\x02h3").record(), Some(NO_APPLICATION_PROTOCOL)),
        ("H2 in upper case", Hello::good().with(16, b"\0\x03\x02H2").record(), Some(NO_APPLICATION_PROTOCOL)),
        ("only suites of TLS 1.2", Hello { suites: vec![0xc02b], ..Hello::good() }.record(), Some(40)),
        ("only suites that nobody wants", Hello { suites: vec![0x1304, 0x1305], ..Hello::good() }.record(), Some(40)),
        ("plain HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), malformed),
        ("plain HTTP/1.1", b"GET /metrics HTTP/1.1\r\nHost: vault\r\n\r\n".to_vec(), malformed),
        ("an upgrade to HTTP/2", b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_vec(), malformed),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), malformed),
        ("a proxy's header", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), malformed),
    ]
}

// === T-07 ===

fn one(what: &str, parts: Vec<Vec<u8>>, end: End) -> Attack {
    Attack { what: what.to_owned(), parts, end }
}

/// Malformations that have a name.
pub(super) fn named() -> Vec<Attack> {
    let good = Hello::good();
    let whole = good.record();
    let mut attacks = Vec::new();
    for end in [End::Waits, End::Finishes, End::Goes] {
        let mut add = |what: &str, parts: Vec<Vec<u8>>| attacks.push(one(&format!("{what} ({end:?})"), parts, end));
        add("nothing", vec![]);
        add("one byte", vec![vec![HANDSHAKE]]);
        add("half a record's head", vec![whole[..3].to_vec()]);
        add("a record's head", vec![whole[..5].to_vec()]);
        add("half a hello", vec![whole[..whole.len() / 2].to_vec()]);
        add("a hello, and then silence", vec![whole.clone()]);
        add("a hello byte by byte", whole.iter().map(|byte| vec![*byte]).collect());
        add("records of one byte", good.message().iter().map(|byte| record(HANDSHAKE, &[*byte])).collect());
        add(
            "records of one byte, at once",
            vec![good.message().iter().flat_map(|b| record(HANDSHAKE, &[*b])).collect()],
        );
        add("a record of 16 KiB and one", vec![record(HANDSHAKE, &vec![1; (16 << 10) + 1])]);
        add("a record of 64 KiB", vec![record(HANDSHAKE, &vec![1; 0xffff])]);
        add("two hellos in one record", vec![record(HANDSHAKE, &[good.message(), good.message()].concat())]);
    }
    attacks.extend(wrong_records(&whole).into_iter().map(|(what, bytes)| one(what, vec![bytes], End::Waits)));
    attacks.extend(wrong_hellos().into_iter().map(|(what, hello)| one(what, vec![hello.record()], End::Waits)));
    attacks.extend(long_hellos());
    attacks
}

fn wrong_records(whole: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let after = |more: Vec<u8>| [whole.to_vec(), more].concat();
    let with_length = |length: u32| [&[HANDSHAKE, 3, 1, 0, 4, 1][..], &length.to_be_bytes()[1..]].concat();
    vec![
        ("an empty record", record(HANDSHAKE, &[])),
        ("a thousand empty records", (0..1000).flat_map(|_| record(HANDSHAKE, &[])).collect()),
        ("a thousand changes of cipher", (0..1000).flat_map(|_| record(CHANGE_CIPHER_SPEC, &[1])).collect()),
        ("an alert", record(ALERT, &[2, 40])),
        ("a thousand warnings", (0..1000).flat_map(|_| record(ALERT, &[1, 100])).collect()),
        ("close_notify first", record(ALERT, &CLOSE_NOTIFY)),
        ("application data first", record(APPLICATION_DATA, &[0; 100])),
        ("a heartbeat first", record(24, &[1, 0x40, 0])),
        ("a record of an unknown kind", record(99, &[1; 40])),
        ("a record of another version", [&[HANDSHAKE, 9, 9, 0, 4], &[1, 0, 0, 0][..]].concat()),
        ("a message of no kind", record(HANDSHAKE, &message(99, &[0; 40]))),
        ("a ServerHello", record(HANDSHAKE, &message(2, &[3; 80]))),
        ("a Finished first", record(HANDSHAKE, &message(20, &[0; 32]))),
        ("a certificate first", record(HANDSHAKE, &message(11, &[0, 0, 0, 0]))),
        ("a hello of no bytes", record(HANDSHAKE, &message(1, &[]))),
        ("a hello of one byte", record(HANDSHAKE, &message(1, &[3]))),
        ("a hello that says 16 MiB", with_length(0xff_ffff)),
        ("a hello that says 64 KiB and one", with_length(0x1_0000)),
        ("a hello that says 64 KiB", with_length(0xffff)),
        ("a hello and close_notify", after(record(ALERT, &CLOSE_NOTIFY))),
        ("a hello and a fatal alert", after(record(ALERT, &[2, 80]))),
        ("a hello and half an alert", after(record(ALERT, &[2]))),
        ("a hello and garbage as ciphertext", after(record(APPLICATION_DATA, &[0x5a; 200]))),
        ("a hello and an empty ciphertext", after(record(APPLICATION_DATA, &[]))),
        ("a hello and a Finished in clear", after(record(HANDSHAKE, &message(20, &[0; 48])))),
        ("a hello and a certificate in clear", after(record(HANDSHAKE, &message(11, &[0, 0, 0, 0])))),
        ("a hello and a hello", after(whole.to_vec())),
        ("a hello and two changes of cipher", after([record(20, &[1]), record(20, &[1])].concat())),
        ("a hello and a wrong change of cipher", after(record(20, &[2]))),
        ("a hello and a hundred changes of cipher", after((0..100).flat_map(|_| record(20, &[1])).collect())),
        ("a hello and plain HTTP/2", after(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec())),
    ]
}

fn wrong_hellos() -> Vec<(&'static str, Hello)> {
    let good = Hello::good;
    let share = |group: u16, length: usize| {
        let entry = [&group.to_be_bytes()[..], &short(&vec![9; length])].concat();
        good().with(51, &short(&entry))
    };
    // No share at all, and it can't be asked for: the group is nobody's.
    let nobody = good().with(10, &[0, 2, 0x7a, 0x7a]).with(51, &[0, 0]);
    vec![
        ("key_share twice", good().and(51, &[0, 0])),
        ("supported_versions twice", good().and(43, &[2, 3, 4])),
        ("server_name twice", good().and(0, b"\0\x0c\0\0\x09localhost")),
        ("alpn twice", good().and(16, b"\0\x03\x02h2")),
        ("an unknown extension twice", good().and(0x5a5a, &[]).and(0x5a5a, &[])),
        ("no group in common", nobody),
        ("no key share", good().without(51)),
        ("no groups", good().without(10)),
        ("no signature algorithms", good().without(13)),
        ("no suite at all", Hello { suites: vec![], ..good() }),
        ("no compression method", Hello { compression: vec![], ..good() }),
        ("256 compression methods", Hello { compression: vec![0; 255], ..good() }),
        ("a session id of 33", Hello { session: vec![1; 33], ..good() }),
        ("a session id of 255", Hello { session: vec![1; 255], ..good() }),
        ("an X25519 share of zeros", share(0x1d, 0)),
        ("an X25519 share too short", share(0x1d, 31)),
        ("an X25519 share too long", share(0x1d, 33)),
        ("a P-256 share off the curve", share(0x17, 65)),
        ("a hybrid share too short", share(0x11ec, 1215)),
        ("a hybrid share of nonsense", share(0x11ec, 1216)),
        ("a share that is no list", good().with(51, &[0xff; 3])),
        ("an empty share", good().with(51, &[])),
        ("a list of no versions", good().with(43, &[0])),
        ("a list of half a version", good().with(43, &[1, 3])),
        ("a name with a zero", good().with(0, b"\0\x07\0\0\x04a\0b\0")),
        ("a name with a colour", good().with(0, b"\0\x0e\0\0\x0b\x1b[31mdoor\n\x1b")),
        ("a name that is no name", good().with(0, b"\0\x07\0\0\x04\xff\xfe\xfd\xfc")),
        ("a name of no kind", good().with(0, b"\0\x07\x05\0\x04abcd")),
        ("an empty list of names", good().with(0, &[0, 0])),
        ("a protocol of no letters", good().with(16, &[0, 1, 0])),
        ("a list that lies of its length", good().with(16, &[0xff, 0xff, 2, b'h', b'2'])),
        ("an early promise", good().with(42, &[])),
        ("a ticket without its place", good().and(41, &[0, 0]).and(0x5a5a, &[])),
        ("a ticket that is none", good().with(45, &[1, 1]).and(41, &psk())),
        ("a ticket and early data", good().with(45, &[1, 1]).with(42, &[]).and(41, &psk())),
        ("a cookie that nobody gave", good().with(44, &short(&[7; 32]))),
    ]
}

/// An offer of a pre-shared key that this vault can't have given.
fn psk() -> Vec<u8> {
    let identity = [&short(&[0x77; 64])[..], &[0, 0, 0, 1]].concat();
    let binder = [&[32][..], &[0x66; 32]].concat();
    [short(&identity), short(&binder)].concat()
}

fn long_hellos() -> Vec<Attack> {
    let padded = |bytes: usize| Hello::good().with(21, &vec![0; bytes]);
    let in_records =
        |message: &[u8], size: usize| message.chunks(size).flat_map(|part| record(HANDSHAKE, part)).collect();
    let many = |count: u16| {
        let mut hello = Hello::good();
        hello.extensions.extend((0..count).map(|number| (0x6000 + number, Vec::new())));
        hello
    };
    let suites = Hello { suites: (0..32_000).collect(), ..Hello::good() };
    let groups = Hello::good().with(10, &short(&vec![0x5a; 30_000])).with(51, &[0, 0]);
    let shares = (0..1000_u16).flat_map(|n| [(0x6000 + n).to_be_bytes().to_vec(), short(&[1; 16])].concat());
    let shares = Hello::good().with(51, &short(&shares.collect::<Vec<u8>>()));
    let protocols = Hello::good().with(16, &short(&[3, b'h', b'2', b'c'].repeat(8_000)));
    [
        ("a hello in records of 3", in_records(&padded(500).message(), 3)),
        ("a hello of 16 KiB in small records", in_records(&padded(16_000).message(), 16)),
        ("a hello of 60 KiB", in_records(&padded(60_000).message(), 16_000)),
        ("a hello above 64 KiB", in_records(&message(1, &vec![3; 70_000]), 16_000)),
        ("a hello of 1 MiB", in_records(&message(1, &vec![3; 1 << 20]), 16_000)),
        ("10,000 extensions", in_records(&many(10_000).message(), 16_000)),
        ("32,000 suites", in_records(&suites.message(), 16_000)),
        ("15,000 groups", in_records(&groups.message(), 16_000)),
        ("1,000 shares", in_records(&shares.message(), 16_000)),
        ("8,000 protocols", in_records(&protocols.message(), 16_000)),
    ]
    .into_iter()
    .map(|(what, bytes): (&str, Vec<u8>)| one(what, vec![bytes], End::Waits))
    .collect()
}

/// A hello that a TLS library wrote, changed by chance.
pub(super) fn mutated(dice: &mut Dice, count: usize) -> Vec<Attack> {
    let recorded = recorded();
    let mutate = |number: usize| {
        let mut bytes = recorded.clone();
        dice.mutate(&mut bytes);
        let end = [End::Waits, End::Finishes, End::Goes][dice.below(3)];
        let cut = dice.below(bytes.len());
        let parts = if dice.below(2) == 0 { vec![bytes] } else { vec![bytes[..cut].to_vec(), bytes[cut..].to_vec()] };
        one(&format!("mutation {number}: {}", hex::encode(parts.concat())), parts, end)
    };
    let mut attacks: Vec<Attack> = (0..count).map(mutate).collect();
    for number in 0..40 {
        let bytes = {
            let count = 1 + dice.below(3000);
            dice.bytes(count)
        };
        attacks.push(one(&format!("random bytes {number}"), vec![bytes], End::Waits));
    }
    attacks
}

/// A hello of a client without certificate, as rustls writes it.
fn recorded() -> Vec<u8> {
    let mut session = nobody(&RootCertStore::empty());
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes
}

fn nobody(roots: &RootCertStore) -> ClientConnection {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder =
        ClientConfig::builder_with_provider(provider.into()).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = builder.unwrap().with_root_certificates(roots.clone()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// What comes after the vault has answered, in what should have been the client's last flight.
type GoOn = fn(&mut ClientConnection) -> Vec<u8>;

/// Handshakes that begin well: the vault has answered, and then comes what should not.
pub(super) fn goes_wrong_in_the_middle(home: &Home, server: &Server) {
    let no_share = Hello::good().with(51, &[0, 0]);
    let retry = |tcp: &mut TcpStream| {
        let answer = one_record(tcp);
        assert_eq!((answer[0], answer[5]), (HANDSHAKE, 2), "a HelloRetryRequest: {}", hex::encode(&answer));
    };
    let after_retry: [(&str, Vec<u8>); 6] = [
        ("the same hello again, without a share", no_share.record()),
        ("again, a hundred times", no_share.record().repeat(100)),
        (
            "another hello, that wants another group",
            Hello::good().with(10, &[0, 2, 0, 0x17]).with(51, &[0, 0]).record(),
        ),
        ("another hello, with other suites", Hello { suites: vec![0x1303], ..Hello::good() }.record()),
        ("a hello of TLS 1.2", Hello::good().without(43).without(51).record()),
        ("close_notify", record(ALERT, &CLOSE_NOTIFY)),
    ];
    for (what, bytes) in after_retry {
        let mut tcp = connect(server);
        tcp.write_all(&no_share.record()).unwrap();
        retry(&mut tcp);
        // It may have closed after the first of many.
        let _ = tcp.write_all(&bytes);
        let rest = read_to_end(&mut tcp, what);
        assert!(!rest.windows(2).any(|two| two == [HANDSHAKE, 2]), "{what}: it asked once more");
    }
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(home.file("pki/ca.pem")).unwrap()).unwrap();
    let after_hello: [(&str, GoOn); 6] = [
        ("close_notify under encryption", |session| {
            session.send_close_notify();
            written(session)
        }),
        ("close_notify in clear", |_| record(ALERT, &CLOSE_NOTIFY)),
        ("a ciphertext that is none", |_| record(APPLICATION_DATA, &[0x5a; 64])),
        ("a ciphertext with a bit changed", |session| {
            let mut flight = written(session);
            *flight.last_mut().unwrap() ^= 1;
            flight
        }),
        ("half of what is due", |session| {
            let flight = written(session);
            flight[..flight.len() / 2].to_vec()
        }),
        ("what is due twice", |session| written(session).repeat(2)),
    ];
    for (what, go_on) in after_hello {
        let (mut tcp, mut session) = (connect(server), nobody(&roots));
        tcp.write_all(&written(&mut session)).unwrap();
        while session.is_handshaking() {
            session.read_tls(&mut tcp).unwrap();
            session.process_new_packets().unwrap();
        }
        let _ = tcp.write_all(&go_on(&mut session));
        read_to_end(&mut tcp, what);
    }
}

fn connect(server: &Server) -> TcpStream {
    let tcp = TcpStream::connect(server.address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp
}

fn one_record(tcp: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 5];
    tcp.read_exact(&mut head).unwrap();
    let mut content = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    tcp.read_exact(&mut content).unwrap();
    [&head[..], &content].concat()
}

fn written(session: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    bytes
}
