//! Requests of death: every rpc with every value of every enum, every flag and every boundary, in all pairs.
//!
//! What there is to vary comes from the descriptors that the vault itself gives out, so a field that is added is varied too. Each
//! request is bytes: what no client library would send is sent as well.

use crate::faults::{good_caller, kept};
use crate::frames::framed;
use crate::harness::{Home, Server, texts};
use crate::open_loop::Wire;
use crate::promises::{Dice, Plan, run};
use cloakroom::grpc::methods::METHODS;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::task::JoinSet;
use tonic::Code;

const VALUE: &[u8] = b"4111111111111111";
/// Longer than anything that has to fit somewhere: a purpose, a name, a value of the scope.
const LONG: usize = 70_000;
/// More than a batch may have.
const MANY: usize = 1_001;
/// Messages within messages are varied down to this depth.
const DEPTH: usize = 3;
/// Calls at the same time: fewer than the streams that one caller may have.
const AT_ONCE: usize = 8;

// === what there is to vary ===

/// All messages, enums and methods that the vault describes, by their full names.
struct Described {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    methods: Vec<(String, MethodDescriptorProto)>,
}

impl Described {
    fn read() -> Self {
        let mut all = Self { messages: BTreeMap::new(), enums: BTreeMap::new(), methods: Vec::new() };
        let sets = [
            cloakroom::proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        for file in sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file) {
            let package = format!(".{}", file.package());
            for message in &file.message_type {
                all.add(&package, message);
            }
            for described in &file.enum_type {
                all.enums.insert(format!("{package}.{}", described.name()), described.clone());
            }
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    all.methods.push((path, method.clone()));
                }
            }
        }
        all
    }

    fn add(&mut self, parent: &str, message: &DescriptorProto) {
        let name = format!("{parent}.{}", message.name());
        for nested in &message.nested_type {
            self.add(&name, nested);
        }
        for described in &message.enum_type {
            self.enums.insert(format!("{name}.{}", described.name()), described.clone());
        }
        self.messages.insert(name, message.clone());
    }
}

/// Texts that lead a call deep into the vault, by the names of their fields.
type Good = HashMap<&'static str, Vec<u8>>;

/// One way to fill a field: what it is called, and its bytes on the wire.
#[derive(Clone)]
struct Choice {
    name: String,
    bytes: Vec<u8>,
    /// Whether nothing of the message can be read with it: then it is not paired with others, which would be hidden by it.
    spoils: bool,
}

impl Choice {
    fn new(name: &str, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), bytes, spoils: false }
    }

    fn spoiling(name: &str, bytes: Vec<u8>) -> Self {
        Self { spoils: true, ..Self::new(name, bytes) }
    }
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

fn scalar(field: &FieldDescriptorProto, wire: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(u64::try_from(field.number()).unwrap() << 3 | wire, &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

fn number(field: &FieldDescriptorProto, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(value, &mut bytes);
    scalar(field, 0, &bytes)
}

fn delimited(field: &FieldDescriptorProto, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(value.len() as u64, &mut bytes);
    bytes.extend_from_slice(value);
    scalar(field, 2, &bytes)
}

/// All ways to fill a field that are tried.
fn choices(described: &Described, field: &FieldDescriptorProto, good: &Good, depth: usize) -> Vec<Choice> {
    let mut all = vec![Choice::new("absent", Vec::new())];
    let mut add = |name: &str, bytes: Vec<u8>| all.push(Choice::new(name, bytes));
    match field.r#type() {
        Type::Enum => {
            let described = &described.enums[field.type_name()];
            let known = described.value.iter().map(|value| i64::from(value.number()));
            for value in known.chain([99, -1, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX]) {
                add(&value.to_string(), number(field, value.cast_unsigned()));
            }
        }
        Type::Bool => {
            for value in [0, 1, 2, u64::MAX] {
                add(&value.to_string(), number(field, value));
            }
        }
        Type::Message => {
            let message = &described.messages[field.type_name()];
            add("empty", delimited(field, &[]));
            if depth > 0 {
                for inner in &message.field {
                    for choice in choices(described, inner, good, depth - 1) {
                        let name = format!("{}: {}", inner.name(), choice.name);
                        all.push(Choice { name, bytes: delimited(field, &choice.bytes), ..choice });
                    }
                }
            }
            // All of it that is good.
            let whole = self::good(described, message, good, depth);
            all.push(Choice::new("good", delimited(field, &whole)));
        }
        Type::String | Type::Bytes => {
            if let Some(good) = good.get(field.name()) {
                add("good", delimited(field, good));
            }
            add("empty", delimited(field, &[]));
            add("one", delimited(field, b"x"));
            add("nul", delimited(field, b"a\0b"));
            add("slashes", delimited(field, b"../../a//b/"));
            add("long", delimited(field, &vec![b'a'; LONG]));
            let binary = delimited(field, &[0xff, 0xfe, 0x80]);
            all.push(Choice { spoils: field.r#type() == Type::String, ..Choice::new("no UTF-8", binary) });
        }
        _ => {
            for value in [0, 1, 2, u64::from(u32::MAX), i64::MAX.cast_unsigned(), 1 << 63, u64::MAX] {
                add(&value.to_string(), number(field, value));
            }
        }
    }
    if field.label() == Label::Repeated {
        let one = all[1].clone();
        let good = all.iter().find(|choice| choice.name == "good").cloned().unwrap_or(one);
        all.push(Choice::new("two", good.bytes.repeat(2)));
        all.push(Choice::new("many", good.bytes.repeat(MANY)));
    } else if let Some(last) = all.get(1..) {
        let twice = last.iter().take(2).flat_map(|choice| choice.bytes.clone()).collect();
        all.push(Choice::new("twice", twice));
    }
    // What no descriptor knows of: another wire type, and a length that leads nowhere.
    all.push(Choice::spoiling("another wire type", scalar(field, 5, &[1, 2, 3, 4])));
    all.push(Choice::spoiling("too short", scalar(field, 2, &[0xff, 0xff, 0x03])));
    all.sort_by_key(|choice| choice.spoils);
    all
}

/// A message with all fields that are known to be good.
fn good(described: &Described, message: &DescriptorProto, good: &Good, depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in &message.field {
        match field.r#type() {
            Type::Message if depth > 0 && message.name() != "DetokenizeRequest" && field.name() != "ttl" => {
                let inner = &described.messages[field.type_name()];
                if field.label() == Label::Repeated || ["batch", "filter"].contains(&field.name()) {
                    bytes.extend(delimited(field, &self::good(described, inner, good, depth - 1)));
                }
            }
            Type::String | Type::Bytes if !["request_id", "nonce", "subject", "page_token"].contains(&field.name()) => {
                bytes.extend(good.get(field.name()).map(|value| delimited(field, value)).unwrap_or_default());
            }
            _ => {}
        }
    }
    bytes
}

// === all pairs ===

/// Rows in which each two choices of each two fields stand together at least once. Each new one takes as many pairs that are missing
/// as can be found at a glance.
fn all_pairs(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut missing = BTreeSet::new();
    for first in 0..sizes.len() {
        for second in first + 1..sizes.len() {
            for one in 0..sizes[first] {
                missing.extend((0..sizes[second]).map(|other| (first, one, second, other)));
            }
        }
    }
    let mut rows = Vec::new();
    while let Some((first, one, second, other)) = missing.first().copied() {
        let mut row: Vec<Option<usize>> = vec![None; sizes.len()];
        (row[first], row[second]) = (Some(one), Some(other));
        for place in 0..sizes.len() {
            if row[place].is_none() {
                let gain = |choice: &usize| {
                    let others = row.iter().enumerate().filter_map(|(at, taken)| Some((at, (*taken)?)));
                    others.filter(|(at, taken)| missing.contains(&pair((place, *choice), (*at, *taken)))).count()
                };
                // The last of those that are as good: what stands first in the list is most often tried anyway.
                row[place] = (0..sizes[place]).max_by_key(gain);
            }
        }
        let row: Vec<usize> = row.into_iter().map(|choice| choice.expect("each field has a choice")).collect();
        for first in 0..row.len() {
            for second in first + 1..row.len() {
                missing.remove(&(first, row[first], second, row[second]));
            }
        }
        rows.push(row);
    }
    rows
}

fn pair(one: (usize, usize), other: (usize, usize)) -> (usize, usize, usize, usize) {
    let ((first, a), (second, b)) = if one.0 < other.0 { (one, other) } else { (other, one) };
    (first, a, second, b)
}

#[test]
fn all_pairs_are_all_pairs_d_11() {
    for sizes in [vec![2, 3], vec![4, 2, 5, 3], vec![7; 9]] {
        let rows = all_pairs(&sizes);
        for first in 0..sizes.len() {
            for second in first + 1..sizes.len() {
                let seen: BTreeSet<_> = rows.iter().map(|row| (row[first], row[second])).collect();
                assert_eq!(seen.len(), sizes[first] * sizes[second], "{sizes:?}");
            }
        }
        let each: usize = sizes.iter().product();
        assert!(rows.len() <= each, "{} rows", rows.len());
    }
}

/// How many of a field's choices are paired with those of others.
fn in_pairs(choices: &[Choice]) -> usize {
    choices.iter().filter(|choice| !choice.spoils).count()
}

/// All that is good, and from there each field in each of its ways.
fn one_at_a_time(message: &DescriptorProto, fields: &[Vec<Choice>]) -> Vec<Vec<usize>> {
    const NEEDED: [&str; 6] = ["scope", "items", "tokens", "purpose", "batch", "list_services"];
    let usual: Vec<usize> = message
        .field
        .iter()
        .zip(fields)
        .map(|(field, choices)| {
            let good = choices.iter().position(|choice| choice.name == "good");
            good.filter(|_| NEEDED.contains(&field.name())).unwrap_or(0)
        })
        .collect();
    let mut rows = vec![usual.clone()];
    for (place, choices) in fields.iter().enumerate() {
        for choice in 0..choices.len() {
            rows.push(usual.clone());
            rows.last_mut().expect("one was pushed")[place] = choice;
        }
    }
    rows
}

// === the calls ===

/// Who may do what the method does.
fn caller(path: &str) -> &'static str {
    match path.rsplit('/').next().unwrap() {
        "Tokenize" | "StreamTokenize" => "gateway",
        "Detokenize" | "StreamDetokenize" => "payments",
        "InspectTokens" | "RenewTokens" | "RevokeTokens" => "operator",
        _ => "auditor",
    }
}

async fn good_texts(home: &Home, server: &Server) -> Good {
    let gateway = server.client(&home.identity("gateway")).await;
    let issued = gateway.tokenize("pan", &[VALUE]).await;
    let token = texts(&issued).remove(0).into_bytes();
    let handle = issued[0].handle.clone().into_bytes();
    let text = |text: &str| text.as_bytes().to_vec();
    Good::from([
        ("scope", text("pan")),
        ("token", token.clone()),
        ("tokens", token),
        ("handle", handle.clone()),
        ("handles", handle),
        ("value", VALUE.to_vec()),
        ("purpose", text("test")),
        ("reason", text("lost")),
        ("caller", home.identity("gateway").id.into_bytes()),
        ("request_id", text("6f2b5e0a-9f8d-4c3b-8a1d-0123456789ab")),
        ("trace_id", text("4bf92f3577b34da6a3ce929d0e0e4736")),
        ("service", text("cloakroom.v1.TokenService")),
        ("list_services", text("*")),
        ("file_containing_symbol", text("cloakroom.v1.TokenService")),
        ("file_by_filename", text("cloakroom/v1/token_service.proto")),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_of_boundaries_in_every_rpc_is_answered_d_11() {
    let home = Home::init();
    let server = home.serve();
    let described = Described::read();
    let good = good_texts(&home, &server).await;
    let mut wires = HashMap::new();
    for name in ["gateway", "payments", "operator", "auditor"] {
        wires.insert(name, Wire::open(&server, &home.identity(name)).await.unwrap());
    }
    let mut seen = BTreeMap::new();
    let mut calls = 0;
    for method in METHODS {
        let (path, descriptor) = described
            .methods
            .iter()
            .find(|(path, _)| path == method.path)
            .unwrap_or_else(|| panic!("{} has no descriptor", method.path));
        let message = &described.messages[descriptor.input_type()];
        let fields: Vec<Vec<Choice>> =
            message.field.iter().map(|field| choices(&described, field, &good, DEPTH)).collect();
        let mut rows = one_at_a_time(message, &fields);
        rows.extend(all_pairs(&fields.iter().map(|choices| in_pairs(choices)).collect::<Vec<_>>()));
        // A stream without an end would go on and on: its first answer is enough, if there is one soon.
        let endless = descriptor.server_streaming() && !descriptor.client_streaming();
        for rows in rows.chunks(AT_ONCE) {
            let mut asked = JoinSet::new();
            for row in rows {
                let bodies = row.iter().zip(&fields).flat_map(|(choice, field)| field[*choice].bytes.clone());
                let named = message.field.iter().zip(row.iter().zip(&fields));
                let says: Vec<String> = named
                    .map(|(field, (choice, choices))| format!("{} {}", field.name(), choices[*choice].name))
                    .collect();
                let (wire, path, body) =
                    (wires[caller(path)].clone(), path.clone(), framed(&bodies.collect::<Vec<_>>()));
                asked.spawn(async move {
                    let answer = if endless {
                        wire.first(&path, &[("grpc-timeout", b"30m")], body.into()).await
                    } else {
                        wire.call(&path, &[], body.into()).await
                    };
                    let answer = answer.unwrap_or_else(|error| panic!("{path} {says:?}: {error}"));
                    let code = answer.code();
                    assert!(
                        !matches!(code, Code::Internal | Code::Unknown | Code::DataLoss),
                        "{path} {says:?}: {code:?}"
                    );
                    code
                });
            }
            for code in asked.join_all().await {
                let codes: &mut BTreeMap<String, usize> = seen.entry(path.clone()).or_default();
                *codes.entry(format!("{code:?}")).or_default() += 1;
                calls += 1;
            }
        }
        // Each rpc was led into its depth, too.
        assert!(seen[path].contains_key("Ok"), "{path}: {:?}", seen[path]);
    }
    for (path, codes) in &seen {
        println!("D-11: {path}: {codes:?}");
    }
    println!("D-11: {calls} requests to {} methods, all answered", seen.len());
    assert!(!server.log().contains("panicked"), "{}", server.log());
    good_caller(&home, &server).await;
    let plan = Plan { seed: Dice::seed(), callers: 16, calls: 200, stamp: Box::new(|| 0) };
    let ended = run(&home, &server, plan, || {}).await;
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    server.stop();
    println!("D-11: {}", kept(&home, home.serve_command(), &ended.promises).await);
}
