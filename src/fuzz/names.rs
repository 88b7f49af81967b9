//! Small texts with a grammar: tokens, scopes, identities, keys; and certificates.

use super::{Input, chosen, frozen, text};
use crate::audit::check_page_token;
use crate::caller::forge::{Draft, p256_key, spoilt_leaves};
use crate::caller::{SpiffeId, TrustDomain, leaf};
use crate::crypto::{Handle, RootKey};
use crate::https::Base;
use crate::keys::provider::{File, Provider};
use crate::merkle::note::{LogKey, Name, VerifierKey, WitnessKey, WitnessVerifier};
use crate::scope::{Path, Pattern};
use crate::secret::SecretBytes;
use crate::token::{self, Format, opaque::Prefix};
use std::os::unix::fs::PermissionsExt;

const TOKENS: &str = include_str!("../../tests/vectors/token_opaque_v1.json");
const UUIDS: &str = include_str!("../../tests/vectors/token_uuid_v1.json");
const CHECKPOINTS: &str = include_str!("../../tests/vectors/checkpoint_v1.json");
const COSIGNATURES: &str = include_str!("../../tests/vectors/cosignature_v1.json");

pub(super) fn names(data: &[u8]) {
    let mut input = Input(data);
    let which = input.byte() % 8;
    let Ok(text) = str::from_utf8(input.rest()) else { return };
    match which {
        0 => a_token(text),
        1 => a_scope(text),
        2 => an_identity(text),
        3 => {
            if let Ok(handle) = text.parse::<Handle>() {
                assert_eq!(hex::encode(handle.as_bytes()), text.to_lowercase());
            }
        }
        4 => {
            if let Ok(base) = text.parse::<Base>() {
                let again: Base = base.to_string().parse().expect("what is written can be read");
                assert_eq!((again.to_string(), again.is_secure()), (base.to_string(), base.is_secure()));
            }
        }
        5 => check_page_token(text),
        6 => {
            if let Ok(prefix) = Prefix::parse(text) {
                assert_eq!(prefix.as_str(), text);
            }
        }
        _ => {
            if let Ok(name) = Name::new(text) {
                assert_eq!(name.as_str(), text);
            }
        }
    }
}

/// A text is a token of one format at most.
fn a_token(text: &str) {
    let pan = Format::Opaque { prefix: Prefix::parse("pan").expect("a prefix") };
    let [opaque, uuid] = [&pan, &Format::Uuid].map(|format| token::parse(format, text));
    let any = token::parse_any(text);
    assert!(opaque.is_err() || uuid.is_err(), "a text is two tokens");
    assert_eq!(any.is_ok(), opaque.is_ok() || uuid.is_ok());
    if let Ok(parsed) = any {
        assert_eq!(parsed.masked.is_some(), opaque.is_ok());
        assert!(parsed.canonical.expose().len() >= 16);
    }
}

/// The grammar once more: `[a-z0-9][a-z0-9_-]*` between slashes, `*` in patterns.
fn a_scope(text: &str) {
    let is_segment = |segment: &str| {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        segment.bytes().next().is_some_and(letter)
            && segment.bytes().all(|byte| letter(byte) || byte == b'_' || byte == b'-')
    };
    let (path, pattern) = (Path::parse(text), Pattern::parse(text));
    if let Ok(path) = &path {
        assert!(text.split('/').all(is_segment), "a scope's name outside the grammar");
        assert_eq!(path.as_str(), text);
        let pattern = pattern.as_ref().expect("a name is a pattern");
        assert!(pattern.matches(path) && pattern.exact().as_ref() == Some(path));
    }
    if pattern.is_ok() {
        assert!(text.split('/').all(|segment| segment == "*" || is_segment(segment)));
    }
}

/// The rules of SPIFFE once more, over bytes instead of pieces.
fn an_identity(text: &str) {
    let by_the_rules = || {
        let rest = text.strip_prefix("spiffe://")?;
        let (domain, path) = rest.split_at(rest.find('/')?);
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let any = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/".contains(&byte);
        let is_good = !domain.is_empty()
            && domain.len() <= 255
            && text.len() <= 2048
            && domain.bytes().all(lower)
            && path.bytes().all(any)
            && !path.ends_with('/')
            && !path.contains("//")
            && !format!("{path}/").contains("/./")
            && !format!("{path}/").contains("/../");
        is_good.then_some((domain, path))
    };
    let id = SpiffeId::parse(text).ok();
    assert_eq!(id.as_ref().map(|id| (id.trust_domain(), id.path())), by_the_rules());
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(domain.as_str(), text);
        assert!(SpiffeId::parse(&format!("spiffe://{text}/a")).is_ok_and(|id| id.is_in(&domain)));
    }
}

pub(super) fn name_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for vectors in [TOKENS, UUIDS] {
        let vectors = frozen(vectors);
        for table in ["tokens", "malformed"] {
            let rows = vectors[table].as_array().unwrap();
            seeds.extend(rows.iter().map(|row| chosen(0, text(row, "token"))));
        }
    }
    seeds.extend(["pan", "acme/eu/card-1", "*/ssn", "a//b", "a/../b", "A", "_a"].map(|scope| chosen(1, scope)));
    let refused = crate::caller::spiffe::tests::refused_spellings();
    seeds.extend(refused.into_iter().filter(|(id, _)| id.len() < 200).map(|(id, _)| chosen(2, id)));
    seeds.push(chosen(2, "spiffe://dev.cloakroom.internal/ns/pay/sa/gateway"));
    seeds.push(chosen(2, "dev.cloakroom.internal"));
    seeds.push(chosen(3, "0f".repeat(20)));
    let bases = ["https://w.example:8443/base/", "http://[::1]:1", "http://127.0.0.1", "https://u@h", "http://h?q#f"];
    seeds.extend(bases.map(|base| chosen(4, base)));
    seeds.push(chosen(5, "AQAAAAAAAAABAAAAAAAAAAA"));
    seeds.push(chosen(6, "pan"));
    seeds.push(chosen(7, "log.example/vault"));
    seeds
}

/// Files with keys: of the log, of witnesses, the root key.
pub(super) fn keys(data: &[u8]) {
    let mut input = Input(data);
    let which = input.byte() % 5;
    let rest = input.rest();
    let secret = SecretBytes::new(rest.to_vec());
    let is_written = |text: &str| {
        let read = str::from_utf8(rest).expect("it was read as text");
        assert_eq!(read.strip_suffix('\n').unwrap_or(read), text.strip_suffix('\n').unwrap_or(text));
    };
    match which {
        0 => {
            if let Ok(key) = LogKey::parse(&secret) {
                is_written(str::from_utf8(key.to_text().expose()).unwrap());
            }
        }
        1 => {
            if let Ok(key) = WitnessKey::parse(&secret) {
                is_written(str::from_utf8(key.to_text().expose()).unwrap());
            }
        }
        2 => {
            if let Some(key) = str::from_utf8(rest).ok().and_then(|text| text.parse::<VerifierKey>().ok()) {
                is_written(&key.to_string());
            }
        }
        3 => {
            if let Some(key) = str::from_utf8(rest).ok().and_then(|text| text.parse::<WitnessVerifier>().ok()) {
                is_written(&key.to_string());
            }
        }
        _ => {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), rest).unwrap();
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
            let read: Result<RootKey, _> = File::new(file.path()).root_key();
            assert!(read.is_err() || rest.starts_with(b"cloakroom-root-key-v1:"));
        }
    }
}

pub(super) fn key_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![chosen(4, format!("cloakroom-root-key-v1:{}\n", "0a".repeat(32)))];
    for (vectors, private, public) in [(CHECKPOINTS, 0, 2), (COSIGNATURES, 1, 3)] {
        for key in frozen(vectors)["keys"].as_array().unwrap() {
            seeds.push(chosen(private, text(key, "private")));
            seeds.push(chosen(public, text(key, "public")));
        }
    }
    seeds
}

/// A certificate, as the handshake looks at it once its chain is good.
pub(super) fn certificate(data: &[u8]) {
    let checked = leaf::check(data);
    let id = leaf::spiffe_id(data);
    if let Ok(leaf) = &checked {
        assert!(id.is_ok_and(|id| id.as_ref() == Some(&leaf.id)), "two readings of one certificate");
        assert!(leaf::check_issuer(data).is_err(), "a leaf that may issue");
    }
    let _ = leaf::check_issuer(data);
}

pub(super) fn certificate_seeds() -> Vec<Vec<u8>> {
    let id = "spiffe://dev.cloakroom.internal/gateway";
    let client = || Draft::client(id, "ca", p256_key());
    let signed = |draft: Draft| draft.signed(|_| vec![7; 64]);
    let spoilt = spoilt_leaves().into_iter().map(|(_, _, change)| signed(change(client(), id)));
    let good = [client(), Draft::server(id, "ca", p256_key()), Draft::authority("ca", "ca", p256_key())];
    good.into_iter().map(signed).chain(spoilt).filter(|der| der.len() < 2048).collect()
}
