//! Z-01: every method, asked by everyone, with the status and the event that each must get.
//!
//! The table below is written by hand and is what the sample policies promise. Each cell is one call; its event is then
//! looked up by the trace id that the call carried, and compared whole. An rpc without a row fails, and so does a table
//! that would not notice the loss of a sample policy.

use crate::harness::{Client, Home, Identity, Refusal, Server, TRUST_DOMAIN, item, texts};
use cloakroom::caller::{Caller, SpiffeId};
use cloakroom::clock::Timestamp;
use cloakroom::config::Config;
use cloakroom::grpc::methods;
use cloakroom::policy::{self, Policy};
use cloakroom::proto::v1::{self, Action, ItemOutcome, Outcome, Reveal};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request};

/// Who asks. `Stranger`: a valid certificate that no policy names. `Partner`: another trust domain's, which the vault
/// trusts for its own. `Foreign`: a trust domain's that the vault does not know. `Nobody`: no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Gateway,
    Payments,
    Auditor,
    Operator,
    Stranger,
    Partner,
    Foreign,
    Nobody,
}

/// In the order of the table's columns.
const EVERYONE: [Who; 8] =
    [Who::Gateway, Who::Payments, Who::Auditor, Who::Operator, Who::Stranger, Who::Partner, Who::Foreign, Who::Nobody];

/// What a cell must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    /// OK, with an ALLOWED event that names this policy.
    Yes(&'static str),
    /// PERMISSION_DENIED, with a DENIED event that names no policy.
    No,
    /// OK, without an event.
    Open,
    /// The handshake fails, with a counted CONNECT event for this reason.
    Door(&'static str),
}
use Cell::{Door, No, Open, Yes};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Tokenize,
    /// With this purpose.
    Detokenize(&'static str),
    Inspect,
    Renew,
    Revoke,
    StreamTokenize,
    StreamDetokenize(&'static str),
    QueryEvents,
    TailEvents,
    GetCheckpoint,
    GetInclusionProof,
    GetConsistencyProof,
    HealthCheck,
    HealthWatch,
    Reflection,
}

struct Row {
    ask: Ask,
    scope: &'static str,
    reveal: Reveal,
    /// What becomes of the items of an allowed call.
    items: &'static [ItemOutcome],
    cells: [Cell; 8],
}

const UNKNOWN_DOMAIN: Cell = Door("unknown_trust_domain");
const NO_CERTIFICATE: Cell = Door("no_client_certificate");

use Action::{QueryAudit, Unspecified};
use Ask::{Detokenize, Inspect, QueryEvents, Renew, Revoke, StreamDetokenize, StreamTokenize, Tokenize};
use ItemOutcome::{Done, Issued, Malformed as Bad, Masked, Refused, Released};
use Reveal::{Full, Masked as InPart, Unspecified as Nothing};

/// A scope that no rulebook names.
const NONE: &str = "nosuch";

const PAN_IN: &str = "gateway-tokenizes-pan";
const SSN_IN: &str = "gateway-tokenizes-ssn";
const MAIL_IN: &str = "gateway-tokenizes-email";
const PAN_OUT: &str = "payments-reads-pan";
const SSN_OUT: &str = "payments-sees-ssn-masked";
const LOG: &str = "auditor-queries-audit";
const CARE: &str = "operator-cares-for-tokens";

#[rustfmt::skip]
fn table() -> Vec<Row> {
    // Whoever is stopped at the door is stopped there whatever is asked.
    let row = |ask, scope, reveal, items, [g, p, a, o]: [Cell; 4]| {
        Row { ask, scope, reveal, items, cells: [g, p, a, o, No, No, UNKNOWN_DOMAIN, NO_CERTIFICATE] }
    };
    let log = |ask, cells| row(ask, "", Nothing, &[], cells);
    let open = |ask| {
        let cells = [Open, Open, Open, Open, Open, Open, UNKNOWN_DOMAIN, NO_CERTIFICATE];
        Row { ask, scope: "", reveal: Nothing, items: &[], cells }
    };
    vec![
        //                                                               gateway       payments      auditor   operator
        row(Tokenize,             "pan",   Nothing, &[Issued, Refused],  [Yes(PAN_IN),  No,           No,       No]),
        row(Tokenize,             "ssn",   Nothing, &[Issued, Refused],  [Yes(SSN_IN),  No,           No,       No]),
        row(Tokenize,             "email", Nothing, &[Issued, Refused],  [Yes(MAIL_IN), No,           No,       No]),
        row(Tokenize,             NONE,    Nothing, &[],                 [No,           No,           No,       No]),
        row(Detokenize("refund"), "pan",   Full,    &[Released, Bad],    [No,           Yes(PAN_OUT), No,       No]),
        row(Detokenize("refund"), "pan",   InPart,  &[Masked, Bad],      [No,           Yes(PAN_OUT), No,       No]),
        row(Detokenize(""),       "pan",   Full,    &[],                 [No,           No,           No,       No]),
        row(Detokenize("refund"), "ssn",   InPart,  &[Masked, Bad],      [No,           Yes(SSN_OUT), No,       No]),
        row(Detokenize("refund"), "ssn",   Full,    &[],                 [No,           No,           No,       No]),
        row(Detokenize(""),       "ssn",   InPart,  &[],                 [No,           No,           No,       No]),
        row(Detokenize("refund"), "email", InPart,  &[],                 [No,           No,           No,       No]),
        row(Detokenize("refund"), NONE,    Full,    &[],                 [No,           No,           No,       No]),
        row(Inspect,              "pan",   Nothing, &[Done, Bad, Done],  [No,           No,           No,       Yes(CARE)]),
        row(Inspect,              "email", Nothing, &[Done, Bad, Done],  [No,           No,           No,       Yes(CARE)]),
        row(Inspect,              NONE,    Nothing, &[],                 [No,           No,           No,       No]),
        row(Renew,                "pan",   Nothing, &[Done, Bad],        [No,           No,           No,       Yes(CARE)]),
        row(Revoke,               "ssn",   Nothing, &[Done, Bad, Done],  [No,           No,           No,       Yes(CARE)]),
        row(StreamTokenize,       "pan",   Nothing, &[Issued, Refused],  [Yes(PAN_IN),  No,           No,       No]),
        row(StreamDetokenize("x"), "pan",   Full,    &[Released, Bad],    [No,           Yes(PAN_OUT), No,       No]),
        row(StreamDetokenize("x"), "ssn",   InPart,  &[Masked, Bad],      [No,           Yes(SSN_OUT), No,       No]),
        log(QueryEvents,                                                 [No,           No,           Yes(LOG), No]),
        log(Ask::TailEvents,                                             [No,           No,           Yes(LOG), No]),
        log(Ask::GetCheckpoint,                                          [No,           No,           Yes(LOG), No]),
        log(Ask::GetInclusionProof,                                      [No,           No,           Yes(LOG), No]),
        log(Ask::GetConsistencyProof,                                    [No,           No,           Yes(LOG), No]),
        open(Ask::HealthCheck),
        open(Ask::HealthWatch),
        open(Ask::Reflection),
    ]
}

/// The right to administer has no rpc yet, so policy itself is asked: one row, with the columns of those who get past the
/// door.
const ADMINISTER: [(Who, Cell); 6] = [
    (Who::Gateway, No),
    (Who::Payments, No),
    (Who::Auditor, No),
    (Who::Operator, Yes("operator-administers")),
    (Who::Stranger, No),
    (Who::Partner, No),
];

/// Refusals of one caller that get an event of their own, at once. A sitting asks for no more, since what comes after is
/// only counted.
const REFUSALS_AT_ONCE: usize = 10;

/// What the cells ask about: issued before, by the gateway.
struct Prepared {
    /// Two of each scope.
    issued: BTreeMap<&'static str, Vec<v1::IssuedToken>>,
}

/// A vault, and everyone at its door.
struct Stage<'h> {
    home: &'h Home,
    server: Server,
    identities: BTreeMap<Who, Identity>,
    /// Connections of those who get in.
    clients: BTreeMap<Who, Client>,
    prepared: &'h Prepared,
    rulebook: Vec<u8>,
    /// How often each who does not get in has knocked.
    knocks: BTreeMap<Who, u64>,
}

/// Numbers the calls, of which the log has those of earlier processes too: their trace ids.
static CALLS: AtomicU64 = AtomicU64::new(1);

/// What an OK answer says of its items.
#[derive(Default)]
struct Answer {
    receipt: Option<v1::AuditReceipt>,
    /// Handles of tokens that it issued.
    issued: Vec<Vec<u8>>,
    /// Events on the page.
    found: u32,
}

impl Answer {
    fn of_tokenize(answer: v1::TokenizeResponse) -> Self {
        Self { issued: answer.results.iter().map(handle).collect(), receipt: answer.receipt, found: 0 }
    }
}

impl Ask {
    /// The rpc, and what events call it.
    fn rpc(self) -> (&'static str, Action) {
        match self {
            Tokenize => ("/cloakroom.v1.TokenService/Tokenize", Action::Tokenize),
            Detokenize(_) => ("/cloakroom.v1.TokenService/Detokenize", Action::Detokenize),
            Inspect => ("/cloakroom.v1.TokenService/InspectTokens", Action::Inspect),
            Renew => ("/cloakroom.v1.TokenService/RenewTokens", Action::Renew),
            Revoke => ("/cloakroom.v1.TokenService/RevokeTokens", Action::Revoke),
            StreamTokenize => ("/cloakroom.v1.TokenService/StreamTokenize", Action::Tokenize),
            StreamDetokenize(_) => ("/cloakroom.v1.TokenService/StreamDetokenize", Action::Detokenize),
            QueryEvents => ("/cloakroom.v1.AuditService/QueryEvents", QueryAudit),
            Self::TailEvents => ("/cloakroom.v1.AuditService/TailEvents", QueryAudit),
            Self::GetCheckpoint => ("/cloakroom.v1.AuditService/GetCheckpoint", QueryAudit),
            Self::GetInclusionProof => ("/cloakroom.v1.AuditService/GetInclusionProof", QueryAudit),
            Self::GetConsistencyProof => ("/cloakroom.v1.AuditService/GetConsistencyProof", QueryAudit),
            Self::HealthCheck => ("/grpc.health.v1.Health/Check", Unspecified),
            Self::HealthWatch => ("/grpc.health.v1.Health/Watch", Unspecified),
            Self::Reflection => ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Unspecified),
        }
    }
}

impl Row {
    fn action(&self) -> Action {
        self.ask.rpc().1
    }

    fn cell(&self, who: Who) -> Cell {
        self.cells[EVERYONE.iter().position(|one| *one == who).unwrap()]
    }

    fn name(&self, who: Who) -> String {
        format!("{who:?}: {:?} {} {:?}", self.ask, self.scope, self.reveal)
    }
}

// === the tests ===

#[test]
fn every_rpc_has_a_row_and_every_row_an_rpc_z_01() {
    let rows: BTreeSet<String> = table().iter().map(|row| row.ask.rpc().0.to_owned()).collect();
    let mut offered: BTreeSet<String> = methods::METHODS.iter().map(|method| method.path.to_owned()).collect();
    let reflection = tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET;
    for set in [cloakroom::proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET, reflection] {
        let files = prost_types::FileDescriptorSet::decode(set).unwrap();
        for file in &files.file {
            for service in &file.service {
                let path = |method: &prost_types::MethodDescriptorProto| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                };
                offered.extend(service.method.iter().map(path));
            }
        }
    }
    assert_eq!(rows, offered, "write a row for each rpc into the table");
}

/// When an rpc needs the right to administer, it gets rows of its own and [`ADMINISTER`] goes.
#[test]
fn nothing_is_administered_over_the_wire_yet_z_01() {
    let about_the_vault = methods::METHODS.iter().filter(|method| method.resource == methods::Resource::Vault);
    let others: Vec<_> =
        about_the_vault.filter(|method| method.action != cloakroom::event::Action::QueryAudit).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_is_as_the_table_says_z_01() {
    let home = home();
    let prepared = prepare(&home).await;
    let rows = table();
    let audited = rows.iter().filter(|row| row.action() != Unspecified).count();
    let mut failures = Vec::new();
    let (mut cells, mut knocks) = (0, BTreeMap::<Who, u64>::new());
    // A new process has counted no refusals yet.
    for sitting in rows.chunks(REFUSALS_AT_ONCE) {
        let mut stage = Stage::open(&home, &prepared).await;
        for row in sitting {
            for who in EVERYONE {
                cells += 1;
                failures.extend(stage.check(row, who).await.err());
            }
        }
        for (who, count) in std::mem::take(&mut stage.knocks) {
            *knocks.entry(who).or_default() += count;
        }
        stage.server.stop();
    }
    failures.extend(administer(&home));
    cells += ADMINISTER.len();
    failures.extend(failed_handshakes(&home, &prepared, &knocks).await.err());
    assert!(failures.is_empty(), "{} of {cells} cells:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(cells, rows.len() * EVERYONE.len() + ADMINISTER.len());
    println!("matrix: {} rows ({audited} audited), {cells} cells, knocks at the door {knocks:?}", rows.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_one_permit_a_cell_fails_z_01() {
    let home = home();
    let prepared = prepare(&home).await;
    let ids = permits();
    assert_eq!(ids.len(), 8, "{ids:?}");
    let mut noticed = 0;
    for (file, id) in &ids {
        let whole = home.read(file);
        home.write(file, &without(&whole, id));
        let failed = cells_that_fail(&home, &prepared, id).await;
        home.write(file, &whole);
        assert!(failed > 0, "no cell depends on {id}");
        noticed += failed;
    }
    println!("matrix: {} permits removed one at a time, {noticed} cells failed", ids.len());
}

/// How many cells that rest on the permit `id` fail without it. All of them must, and the others must not.
async fn cells_that_fail(home: &Home, prepared: &Prepared, id: &str) -> usize {
    let rests = |cell: Cell| matches!(cell, Yes(named) if named == id);
    let mut stage = Stage::open(home, prepared).await;
    let mut failed = 0;
    for row in &table() {
        for who in EVERYONE {
            if rests(row.cell(who)) {
                let outcome = stage.check(row, who).await;
                assert!(outcome.is_err(), "{} passes without {id}", row.name(who));
                failed += 1;
            } else if matches!(row.cell(who), Yes(_)) && id != "auditor-queries-audit" {
                // Without the auditor's permit nobody could look.
                stage.check(row, who).await.unwrap_or_else(|failure| panic!("without {id}: {failure}"));
            }
        }
    }
    stage.server.stop();
    let administer = administer(home);
    assert_eq!(administer.len(), usize::from(id == "operator-administers"), "{administer:?}");
    failed + administer.len()
}

// === the stage ===

fn home() -> Home {
    let home = Home::init();
    home.new_authority("partner");
    home.trust("partner.example", "partner");
    home
}

/// The gateway issues what the cells ask about, while all policies stand.
async fn prepare(home: &Home) -> Prepared {
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let mut issued = BTreeMap::new();
    for scope in ["pan", "ssn", "email"] {
        // The first is detokenized and inspected, the others are revoked.
        let values: [&[u8]; 3] = [b"4111111111111111", b"4000056655665556", b"5555555555554444"];
        issued.insert(scope, gateway.tokenize(scope, &values).await);
    }
    server.stop();
    Prepared { issued }
}

impl Prepared {
    fn of(&self, scope: &str) -> &[v1::IssuedToken] {
        // Where the scope does not exist, tokens of one that does.
        self.issued.get(scope).unwrap_or(&self.issued["pan"])
    }

    /// For calls that name tokens: one that is good and one that is none.
    fn tokens(&self, row: &Row) -> Vec<String> {
        let place = usize::from(row.ask == Revoke);
        vec![texts(self.of(row.scope))[place].clone(), "pan_this-is-no-token".to_owned()]
    }

    /// For calls that name handles too.
    fn handle(&self, row: &Row) -> String {
        self.of(row.scope)[2].handle.clone()
    }

    /// What the event of a call that names tokens lists: nothing for what is none.
    fn named(&self, row: &Row) -> Vec<Vec<u8>> {
        let place = usize::from(row.ask == Revoke);
        let bytes = |handle: &str| hex::decode(handle).unwrap();
        let first = bytes(&self.of(row.scope)[place].handle);
        let given = bytes(&self.handle(row));
        match (row.ask, row.scope) {
            // Without a rule set for the scope a token's handle is not known; a handle is.
            (Inspect | Revoke, NONE) => vec![vec![], vec![], given],
            (_, NONE) => vec![],
            (Inspect | Revoke, _) => vec![first, vec![], given],
            (Detokenize(_) | StreamDetokenize(_) | Renew, _) => vec![first, vec![]],
            _ => vec![],
        }
    }
}

impl<'h> Stage<'h> {
    async fn open(home: &'h Home, prepared: &'h Prepared) -> Self {
        let server = home.serve();
        let identities = identities(home);
        let mut clients = BTreeMap::new();
        for who in EVERYONE.into_iter().filter(|who| !matches!(who, Who::Foreign | Who::Nobody)) {
            clients.insert(who, server.client(&identities[&who]).await);
        }
        let rulebook = cloakroom::server::load_rulebook(&config(home)).unwrap().digest().to_vec();
        Self { home, server, identities, clients, prepared, rulebook, knocks: BTreeMap::new() }
    }

    /// Makes the call of one cell and holds status and event against the table.
    async fn check(&mut self, row: &Row, who: Who) -> Result<(), String> {
        let name = row.name(who);
        let trace = format!("{:032x}", CALLS.fetch_add(1, Ordering::Relaxed));
        let cell = row.cell(who);
        let outcome = if let Door(_) = cell {
            return self.knock(row, who, &trace).await.map_err(|failure| format!("{name}: {failure}"));
        } else {
            row.ask.perform(row, &self.clients[&who], self.prepared, &trace).await
        };
        let refusal = outcome.as_ref().err().map(Refusal::of);
        let (code, reason) = refusal.as_ref().map_or((Code::Ok, ""), |refusal| (refusal.code, refusal.reason.as_str()));
        let expected = match cell {
            Yes(_) | Open => (Code::Ok, ""),
            No => (Code::PermissionDenied, "POLICY_DENIED"),
            Door(_) => unreachable!("it has returned"),
        };
        if (code, reason) != expected {
            return Err(format!("{name}: {code:?} {reason:?}, not {expected:?}"));
        }
        let events = self.traced(&trace).await.map_err(|failure| format!("{name}: {failure}"))?;
        if cell == Open {
            return if events.is_empty() { Ok(()) } else { Err(format!("{name}: audited: {events:?}")) };
        }
        let answer = outcome.unwrap_or_default();
        let receipt = answer.receipt.clone().or_else(|| refusal.and_then(|refusal| refusal.receipt));
        let [event] = &events[..] else { return Err(format!("{name}: {} events", events.len())) };
        match &receipt {
            Some(receipt) if (&receipt.log_id, receipt.sequence) != (&event.log_id, event.sequence) => {
                return Err(format!("{name}: the receipt {receipt:?} names another event than {event:?}"));
            }
            // Answers of the log have no receipt.
            None if row.action() != QueryAudit || cell == No => return Err(format!("{name}: no receipt")),
            _ => {}
        }
        let expected = self.expected(row, who, &trace, &answer, event);
        if *event == expected { Ok(()) } else { Err(format!("{name}:\n  is      {event:?}\n  must be {expected:?}")) }
    }

    /// The event as it must be. Only what nobody can know beforehand is taken from the real one: time, place and salt.
    fn expected(&self, row: &Row, who: Who, trace: &str, answer: &Answer, real: &v1::AuditEvent) -> v1::AuditEvent {
        let identity = &self.identities[&who];
        let cell = row.cell(who);
        let (outcome, reason, policies) = match cell {
            Yes(policy) => (Outcome::Allowed, "", vec![policy.to_owned()]),
            _ => (Outcome::Denied, "POLICY_DENIED", vec![]),
        };
        let allowed = matches!(cell, Yes(_));
        let done = |outcome: &&ItemOutcome| matches!(**outcome, Issued | Released | Masked | Done);
        let items = if allowed { row.items } else { &[] };
        let succeeded = u32::try_from(items.iter().filter(done).count()).unwrap() + answer.found;
        let requested = match row.ask {
            Inspect | Revoke => 3,
            _ if row.action() == QueryAudit => 0,
            _ => 2,
        };
        let handles = match (row.ask, cell) {
            (Tokenize | StreamTokenize, Yes(_)) => answer.issued.clone(),
            (QueryEvents, Yes(_)) => vec![hex::decode(&self.prepared.issued["pan"][0].handle).unwrap()],
            (_, Yes(_) | No) => self.prepared.named(row),
            _ => vec![],
        };
        let detail = match (row.ask, cell) {
            (Revoke, _) => "lost card".to_owned(),
            (QueryEvents, Yes(_)) => {
                format!("scope=\"pan\" handle=\"{}\" oldest first", self.prepared.issued["pan"][0].handle)
            }
            (Ask::TailEvents, Yes(_)) => "tail from 0; oldest first".to_owned(),
            (Ask::GetCheckpoint, Yes(_)) => "checkpoint".to_owned(),
            (Ask::GetInclusionProof, Yes(_)) => "inclusion proof of event 0 in the newest tree".to_owned(),
            (Ask::GetConsistencyProof, Yes(_)) => "consistency proof from 0 events to the newest tree".to_owned(),
            _ => String::new(),
        };
        let purpose = if let Detokenize(purpose) | StreamDetokenize(purpose) = row.ask { purpose } else { "" };
        assert_eq!(real.salt.len(), 16);
        assert_eq!(self.rulebook.len(), 32);
        v1::AuditEvent {
            log_id: self.log_id(),
            sequence: real.sequence,
            time: real.time,
            action: row.action().into(),
            outcome: outcome.into(),
            reason: reason.to_owned(),
            caller: identity.id.clone(),
            certificate_sha256: identity.certificate_sha256.clone(),
            access_token: None,
            scope: row.scope.to_owned(),
            handles,
            requested,
            succeeded,
            purpose: purpose.to_owned(),
            request_hash: vec![],
            trace_id: trace.to_owned(),
            peer_address: self.clients[&who].peer(),
            policies,
            node: "vault".to_owned(),
            reveal: row.reveal.into(),
            rulebook: self.rulebook.clone(),
            item_outcomes: items.iter().map(|outcome| (*outcome).into()).collect(),
            count: 0,
            first_time: None,
            detail,
            salt: real.salt.clone(),
        }
    }

    /// The log's name, as the public key in the home says it.
    fn log_id(&self) -> String {
        self.home.read("log.vkey").split('+').next().unwrap().to_owned()
    }

    /// Every event of the call with this trace id.
    async fn traced(&self, trace: &str) -> Result<Vec<v1::AuditEvent>, String> {
        let request = v1::QueryEventsRequest { page_size: 8, newest_first: true, ..Default::default() };
        let page =
            self.clients[&Who::Auditor].audit().query_events(request).await.map_err(|status| status.to_string())?;
        Ok(page.into_inner().events.into_iter().filter(|event| event.trace_id == trace).collect())
    }

    /// A call by someone who does not get in: no answer of the vault, only a broken connection.
    async fn knock(&mut self, row: &Row, who: Who, trace: &str) -> Result<(), String> {
        // In TLS 1.3 a client learns of it only when it reads.
        let Ok(client) = self.server.connect(&self.identities[&who]).await else {
            return Err("the connection failed before the certificate was looked at".to_owned());
        };
        let outcome = row.ask.perform(row, &client, self.prepared, trace).await;
        *self.knocks.entry(who).or_default() += client.connections().len() as u64;
        match outcome.err() {
            None => Err("came in".to_owned()),
            Some(status) if status.metadata().is_empty() && status.details().is_empty() => Ok(()),
            Some(status) => Err(format!("the vault answered {status:?}")),
        }
    }
}

/// Those who did not get in stand in the log, with reason, certificate and number. Looked up in a new process: the last one
/// recorded what it had counted when it ended.
async fn failed_handshakes(home: &Home, prepared: &Prepared, knocks: &BTreeMap<Who, u64>) -> Result<(), String> {
    let stage = Stage::open(home, prepared).await;
    let filter = v1::AuditFilter { action: Action::Connect.into(), ..Default::default() };
    let events = stage.clients[&Who::Auditor].events(filter).await;
    let mut counted = BTreeMap::<Who, u64>::new();
    for event in events {
        let (who, reason) = match event.certificate_sha256.len() {
            0 => (Who::Nobody, "no_client_certificate"),
            _ => (Who::Foreign, "unknown_trust_domain"),
        };
        // The other stages' foreigners had certificates of their own.
        let expected = v1::AuditEvent {
            log_id: stage.log_id(),
            sequence: event.sequence,
            time: event.time,
            action: Action::Connect.into(),
            outcome: Outcome::Denied.into(),
            reason: reason.to_owned(),
            certificate_sha256: event.certificate_sha256.clone(),
            peer_address: "127.0.0.1".to_owned(),
            node: "vault".to_owned(),
            rulebook: stage.rulebook.clone(),
            count: event.count,
            first_time: event.first_time,
            salt: event.salt.clone(),
            ..Default::default()
        };
        if event != expected || event.first_time.is_none() || event.salt.len() != 16 {
            return Err(format!("CONNECT:\n  is      {event:?}\n  must be {expected:?}"));
        }
        *counted.entry(who).or_default() += event.count;
    }
    stage.server.stop();
    if counted == *knocks { Ok(()) } else { Err(format!("handshakes: {counted:?} in the log, {knocks:?} were tried")) }
}

/// Everyone's certificate. Those that `init` does not make are made once for each home.
fn identities(home: &Home) -> BTreeMap<Who, Identity> {
    let partner = home.existing_authority("partner");
    let foreign = home.new_authority("foreign");
    BTreeMap::from([
        (Who::Gateway, home.identity("gateway")),
        (Who::Payments, home.identity("payments")),
        (Who::Auditor, home.identity("auditor")),
        (Who::Operator, home.identity("operator")),
        (Who::Stranger, home.authority().client(&format!("spiffe://{TRUST_DOMAIN}/stranger"))),
        (Who::Partner, partner.client("spiffe://partner.example/gateway")),
        (Who::Foreign, foreign.client("spiffe://foreign.example/gateway")),
        (Who::Nobody, home.nobody()),
    ])
}

fn config(home: &Home) -> Config {
    Config::load(&home.file("cloakroom.toml"), []).unwrap()
}

/// Asks policy itself who may administer, and says which cells are wrong.
fn administer(home: &Home) -> Vec<String> {
    let policy = Policy::new(cloakroom::server::load_rulebook(&config(home)).unwrap());
    let context =
        policy::Context { purpose: "", reveal: policy::Reveal::Nothing, requested: 0, now: Timestamp::from_millis(1) };
    let mut failures = Vec::new();
    for (who, cell) in ADMINISTER {
        let id = match who {
            Who::Partner => "spiffe://partner.example/operator".to_owned(),
            _ => format!("spiffe://{TRUST_DOMAIN}/{}", format!("{who:?}").to_lowercase()),
        };
        let caller = Caller {
            id: SpiffeId::parse(&id).unwrap(),
            certificate_sha256: [0; 32],
            not_after: Timestamp::from_millis(u64::MAX),
            peer: String::new(),
        };
        let permit = policy.permit::<policy::action::Administer>(&caller, policy::Resource::Vault, &context);
        let found = permit.map(|permit| permit.policies().to_vec()).unwrap_or_default();
        let expected = if let Yes(id) = cell { vec![id.to_owned()] } else { vec![] };
        if found != expected {
            failures.push(format!("{who:?}: administer: {found:?}, not {expected:?}"));
        }
    }
    failures
}

// === the policies ===

/// The id of each permit of the sample policies, with its file.
fn permits() -> Vec<(String, String)> {
    let ids = |text: &'static str| text.split("@id(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    let files = policy::sample::FILES.iter();
    files.flat_map(|(file, text)| ids(text).map(move |id| (format!("policies/{file}"), id))).collect()
}

/// The file's text without the policy `id`.
fn without(text: &str, id: &str) -> String {
    let from = text.find(&format!("@id(\"{id}\")")).unwrap();
    let length = text[from + 1..].find("@id(").map_or(text.len() - from, |length| length + 1);
    format!("{}{}", &text[..from], &text[from + length..])
}

// === the calls ===

impl Ask {
    /// Makes the call.
    async fn perform(self, row: &Row, client: &Client, prepared: &Prepared, trace: &str) -> Result<Answer, Status> {
        let scope = row.scope.to_owned();
        let (mut tokens, mut audit) = (client.tokens(), client.audit());
        let none = Answer::default;
        match self {
            Self::Tokenize => {
                Ok(Answer::of_tokenize(tokens.tokenize(traced(trace, tokenize(scope))).await?.into_inner()))
            }
            Self::Detokenize(purpose) => {
                let request = detokenize(row, purpose, prepared);
                let answer = tokens.detokenize(traced(trace, request)).await?.into_inner();
                Ok(Answer { receipt: answer.receipt, ..none() })
            }
            Self::Inspect => {
                let handles = vec![prepared.handle(row)];
                let request = v1::InspectTokensRequest { scope, tokens: prepared.tokens(row), handles };
                let answer = tokens.inspect_tokens(traced(trace, request)).await?.into_inner();
                Ok(Answer { receipt: answer.receipt, ..none() })
            }
            Self::Renew => {
                let request = v1::RenewTokensRequest { scope, tokens: prepared.tokens(row), ..Default::default() };
                let answer = tokens.renew_tokens(traced(trace, request)).await?.into_inner();
                Ok(Answer { receipt: answer.receipt, ..none() })
            }
            Self::Revoke => {
                let (named, handles) = (prepared.tokens(row), vec![prepared.handle(row)]);
                let reason = "lost card".to_owned();
                let request = v1::RevokeTokensRequest { scope, tokens: named, handles, reason, ..Default::default() };
                let answer = tokens.revoke_tokens(traced(trace, request)).await?.into_inner();
                Ok(Answer { receipt: answer.receipt, ..none() })
            }
            Self::StreamTokenize => {
                let batches = tokio_stream::iter([v1::StreamTokenizeRequest { batch: Some(tokenize(scope)) }]);
                let answer = only(tokens.stream_tokenize(traced(trace, batches)).await).await?;
                Ok(Answer::of_tokenize(answer.batch.unwrap()))
            }
            Self::StreamDetokenize(purpose) => {
                let batch = Some(detokenize(row, purpose, prepared));
                let batches = tokio_stream::iter([v1::StreamDetokenizeRequest { batch }]);
                let answer = only(tokens.stream_detokenize(traced(trace, batches)).await).await?;
                Ok(Answer { receipt: answer.batch.unwrap().receipt, ..none() })
            }
            Self::QueryEvents => {
                let handle = prepared.issued["pan"][0].handle.clone();
                let filter = Some(v1::AuditFilter { scope: "pan".to_owned(), handle, ..Default::default() });
                let request = v1::QueryEventsRequest { filter, page_size: 1, ..Default::default() };
                let page = audit.query_events(traced(trace, request)).await?.into_inner();
                Ok(Answer { found: u32::try_from(page.events.len()).unwrap(), ..none() })
            }
            Self::TailEvents => first(audit.tail_events(traced(trace, v1::TailEventsRequest::default())).await).await,
            Self::GetCheckpoint => audit
                .get_checkpoint(traced(trace, v1::GetCheckpointRequest {}))
                .await
                .map(|_| Answer { found: 1, ..none() }),
            Self::GetInclusionProof => {
                let request = v1::GetInclusionProofRequest::default();
                audit.get_inclusion_proof(traced(trace, request)).await.map(|_| Answer { found: 1, ..none() })
            }
            Self::GetConsistencyProof => {
                let request = v1::GetConsistencyProofRequest::default();
                audit.get_consistency_proof(traced(trace, request)).await.map(|_| Answer { found: 1, ..none() })
            }
            _ => self.perform_open(client, trace).await,
        }
    }

    async fn perform_open(self, client: &Client, trace: &str) -> Result<Answer, Status> {
        let mut health = HealthClient::new(client.channel.clone());
        match self {
            Self::HealthCheck => {
                health.check(traced(trace, HealthCheckRequest::default())).await.map(|_| Answer::default())
            }
            Self::HealthWatch => first(health.watch(traced(trace, HealthCheckRequest::default())).await).await,
            _ => {
                let message_request = Some(server_reflection_request::MessageRequest::ListServices(String::new()));
                let request = ServerReflectionRequest { message_request, ..Default::default() };
                let mut reflection = ServerReflectionClient::new(client.channel.clone());
                first(reflection.server_reflection_info(traced(trace, tokio_stream::iter([request]))).await).await
            }
        }
    }
}

/// A request that carries a trace id.
fn traced<T>(trace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").parse().unwrap());
    request
}

/// One value that is good, and one that is none.
fn tokenize(scope: String) -> v1::TokenizeRequest {
    v1::TokenizeRequest { scope, items: vec![item(b"4111111111111111"), item(b"")], ..Default::default() }
}

fn detokenize(row: &Row, purpose: &str, prepared: &Prepared) -> v1::DetokenizeRequest {
    v1::DetokenizeRequest {
        scope: row.scope.to_owned(),
        tokens: prepared.tokens(row),
        purpose: purpose.to_owned(),
        reveal: row.reveal.into(),
        ..Default::default()
    }
}

/// As events list it: empty for an item that got none.
fn handle(result: &v1::TokenizeResult) -> Vec<u8> {
    match &result.outcome {
        Some(v1::tokenize_result::Outcome::Issued(issued)) => hex::decode(&issued.handle).unwrap(),
        _ => vec![],
    }
}

/// A stream's one message, behind which it ends.
async fn only<T>(answer: Result<Response<tonic::Streaming<T>>, Status>) -> Result<T, Status> {
    let mut answers = answer?.into_inner();
    let first = answers.message().await?;
    match (first, answers.message().await?) {
        (Some(message), None) => Ok(message),
        _ => Err(Status::new(Code::DataLoss, "the stream has not exactly one message")),
    }
}

/// That a stream has a first message.
async fn first<T>(answer: Result<Response<tonic::Streaming<T>>, Status>) -> Result<Answer, Status> {
    match answer?.into_inner().message().await? {
        Some(_) => Ok(Answer::default()),
        None => Err(Status::new(Code::DataLoss, "the stream ended without a message")),
    }
}
