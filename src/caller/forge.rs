//! Certificates made by hand for tests, each field as wrong as the test wants it.
//!
//! Certificate libraries refuse to make most of what must be refused here. This writes DER directly and leaves keys and
//! signing to whoever calls it, so that it needs nothing outside this module.

/// `ecdsa-with-SHA256` as an AlgorithmIdentifier.
pub(crate) const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// `ecdsa-with-SHA1`.
pub(crate) const ECDSA_SHA1: &[u8] = &[0x30, 0x09, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
/// `Ed448`.
pub(crate) const ED448: &[u8] = &[0x30, 0x05, 6, 3, 0x2b, 0x65, 0x71];

pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(crate) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
/// An extension that nobody knows: 1.3.6.1.4.1.55555.1.
pub(crate) const UNHEARD_OF: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xb2, 3, 1];

pub(crate) const CLIENT_AUTH: u8 = 2;
const SERVER_AUTH: u8 = 1;

/// A certificate that is not signed yet.
#[derive(Clone)]
pub(crate) struct Draft {
    /// The version as written; `None` leaves it out, which is version 1.
    pub version: Option<u8>,
    /// The content bytes of the serial number.
    pub serial: Vec<u8>,
    /// The AlgorithmIdentifier that stands under the signature.
    pub algorithm: Vec<u8>,
    /// The AlgorithmIdentifier that stands beside the signature; `None` repeats `algorithm`.
    pub outer_algorithm: Option<Vec<u8>>,
    pub issuer: String,
    pub subject: String,
    /// UTCTime: `YYMMDDhhmmssZ`.
    pub not_before: String,
    pub not_after: String,
    /// The whole SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    pub extensions: Vec<Extension>,
}

#[derive(Clone)]
pub(crate) struct Extension {
    pub oid: Vec<u8>,
    pub critical: bool,
    pub value: Vec<u8>,
}

/// Spoils a good client's draft with this SPIFFE ID.
pub(crate) type Change = fn(Draft, &str) -> Draft;

/// What is wrong with a leaf, the reason that must be given for it, and how to make it wrong. Whoever signs it is right.
pub(crate) fn spoilt_leaves() -> Vec<(&'static str, &'static str, Change)> {
    let rows: [(&str, &str, Change); 31] = [
        ("expired", "certificate_expired", |draft, _| Draft { not_after: "200102000000Z".into(), ..draft }),
        ("not yet valid", "certificate_not_yet_valid", |draft, _| Draft {
            not_before: "490101000000Z".into(),
            ..draft
        }),
        ("ends before it begins", "certificate_expired", |draft, _| Draft {
            not_before: "300101000000Z".into(),
            not_after: "200101000000Z".into(),
            ..draft
        }),
        ("version 1", "certificate_version", |draft, _| Draft { version: None, extensions: vec![], ..draft }),
        ("version 1 with extensions", "certificate_version", |draft, _| Draft { version: None, ..draft }),
        ("version 2", "certificate_version", |draft, _| Draft { version: Some(1), ..draft }),
        ("serial 0", "certificate_serial_number", |draft, _| Draft { serial: vec![0], ..draft }),
        ("serial negative", "certificate_serial_number", |draft, _| Draft { serial: vec![0x90, 1], ..draft }),
        ("serial of 40 bytes", "certificate_serial_number", |draft, _| Draft { serial: vec![1; 40], ..draft }),
        ("SHA-1", "certificate_signature_algorithm", |draft, _| Draft { algorithm: ECDSA_SHA1.into(), ..draft }),
        ("signed with Ed448", "certificate_signature_algorithm", |draft, _| Draft { algorithm: ED448.into(), ..draft }),
        ("two algorithms", "certificate_malformed", |draft, _| Draft {
            outer_algorithm: Some(ECDSA_SHA1.into()),
            ..draft
        }),
        ("RSA-1024", "certificate_rsa_key_too_small", |draft, _| Draft { public_key: rsa_key(1024, 1), ..draft }),
        ("P-192", "certificate_public_key", |draft, _| Draft { public_key: p192_key(), ..draft }),
        ("Ed448", "certificate_public_key", |draft, _| Draft { public_key: ed448_key(), ..draft }),
        ("no key usage", "certificate_key_usage_missing", |draft, _| draft.without(KEY_USAGE)),
        ("key usage not critical", "certificate_key_usage_not_critical", |draft, _| {
            draft.with(key_usage(false, &[0x80]))
        }),
        ("no digitalSignature", "certificate_no_digital_signature", |draft, _| draft.with(key_usage(true, &[0x20]))),
        ("keyCertSign", "certificate_key_cert_sign", |draft, _| draft.with(key_usage(true, &[0x84]))),
        ("cRLSign", "certificate_crl_sign", |draft, _| draft.with(key_usage(true, &[0x82]))),
        ("no extended key usage", "certificate_extended_key_usage_missing", |draft, _| {
            draft.without(EXTENDED_KEY_USAGE)
        }),
        ("serverAuth only", "certificate_no_client_auth", |draft, _| draft.with(extended_key_usage(&[1]))),
        ("no purpose", "certificate_no_client_auth", |draft, _| draft.with(extended_key_usage(&[]))),
        ("CA:TRUE", "certificate_is_authority", |draft, _| draft.with(basic_constraints(true, None))),
        ("unknown critical extension", "certificate_unknown_critical_extension", |draft, _| {
            draft.with(critical(UNHEARD_OF, &[5, 0]))
        }),
        ("critical name constraints", "certificate_unknown_critical_extension", |draft, _| {
            draft.with(critical(NAME_CONSTRAINTS, &[0x30, 0]))
        }),
        ("an extension twice", "certificate_malformed", |mut draft, _| {
            draft.extensions.push(key_usage(true, &[0x80]));
            draft
        }),
        ("no names", "certificate_no_spiffe_id", |draft, _| draft.without(SUBJECT_ALT_NAME)),
        ("names empty", "certificate_no_spiffe_id", |draft, _| draft.with(names(&[]))),
        ("id in the common name", "certificate_no_spiffe_id", |draft, id| {
            Draft { subject: id.into(), ..draft }.without(SUBJECT_ALT_NAME)
        }),
        ("id in a DNS name", "certificate_no_spiffe_id", |draft, id| draft.with(names(&[dns(id)]))),
    ];
    rows.to_vec()
}

/// A critical extension.
pub(crate) fn critical(oid: &[u8], value: &[u8]) -> Extension {
    Extension { oid: oid.to_vec(), critical: true, value: value.to_vec() }
}

impl Draft {
    /// A client's certificate with which nothing is wrong.
    pub(crate) fn client(id: &str, issuer: &str, public_key: Vec<u8>) -> Self {
        Self {
            version: Some(2),
            serial: vec![0x11, 0x22, 0x33],
            algorithm: ECDSA_SHA256.to_vec(),
            outer_algorithm: None,
            issuer: issuer.to_owned(),
            subject: "client".to_owned(),
            not_before: "200101000000Z".to_owned(),
            not_after: "491231235959Z".to_owned(),
            public_key,
            extensions: vec![
                key_usage(true, &[0x80]),
                extended_key_usage(&[CLIENT_AUTH]),
                basic_constraints(false, None),
                names(&[uri(id)]),
            ],
        }
    }

    /// A server's certificate for `localhost`, with a SPIFFE ID.
    pub(crate) fn server(id: &str, issuer: &str, public_key: Vec<u8>) -> Self {
        let mut draft = Self::client(id, issuer, public_key);
        "server".clone_into(&mut draft.subject);
        draft.with(extended_key_usage(&[SERVER_AUTH])).with(names(&[uri(id), dns("localhost")]))
    }

    /// An authority's certificate.
    pub(crate) fn authority(subject: &str, issuer: &str, public_key: Vec<u8>) -> Self {
        let mut draft = Self::client("", issuer, public_key);
        subject.clone_into(&mut draft.subject);
        draft
            .without(EXTENDED_KEY_USAGE)
            .without(SUBJECT_ALT_NAME)
            .with(key_usage(true, &[0x06]))
            .with(basic_constraints(true, None))
    }

    /// Puts `extension` in, in the place of the one with the same OID if there is one.
    pub(crate) fn with(mut self, extension: Extension) -> Self {
        match self.extensions.iter_mut().find(|held| held.oid == extension.oid) {
            Some(held) => *held = extension,
            None => self.extensions.push(extension),
        }
        self
    }

    /// Takes the extension `oid` out.
    pub(crate) fn without(mut self, oid: &[u8]) -> Self {
        self.extensions.retain(|held| held.oid != oid);
        self
    }

    /// The certificate, with the signature that `sign` makes of the part to be signed.
    pub(crate) fn signed(&self, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let to_be_signed = self.to_be_signed();
        let signature = bit_string(&sign(&to_be_signed));
        let algorithm = self.outer_algorithm.as_ref().unwrap_or(&self.algorithm);
        sequence(&[&to_be_signed, algorithm, &signature])
    }

    fn to_be_signed(&self) -> Vec<u8> {
        let version = self.version.map_or(vec![], |version| tagged(0xa0, &tagged(2, &[version])));
        let validity = sequence(&[&tagged(23, self.not_before.as_bytes()), &tagged(23, self.not_after.as_bytes())]);
        let extensions: Vec<u8> = self.extensions.iter().flat_map(Extension::der).collect();
        let extensions = if self.extensions.is_empty() { vec![] } else { tagged(0xa3, &sequence(&[&extensions])) };
        sequence(&[
            &version,
            &tagged(2, &self.serial),
            &self.algorithm,
            &common_name(&self.issuer),
            &validity,
            &common_name(&self.subject),
            &self.public_key,
            &extensions,
        ])
    }
}

impl Extension {
    fn der(&self) -> Vec<u8> {
        let critical = if self.critical { vec![1, 1, 0xff] } else { vec![] };
        sequence(&[&tagged(6, &self.oid), &critical, &tagged(4, &self.value)])
    }
}

/// Key usage: the bits as they stand in the BIT STRING, so that `0x80` is digitalSignature.
pub(crate) fn key_usage(critical: bool, bits: &[u8]) -> Extension {
    let unused = bits.last().map_or(0, |last| last.trailing_zeros().min(7) as u8);
    let value = tagged(3, &[&[unused], bits].concat());
    Extension { oid: KEY_USAGE.to_vec(), critical, value }
}

/// Extended key usage with purposes under id-kp: 1 is serverAuth, 2 is clientAuth.
pub(crate) fn extended_key_usage(purposes: &[u8]) -> Extension {
    let purposes: Vec<u8> =
        purposes.iter().flat_map(|purpose| tagged(6, &[0x2b, 6, 1, 5, 5, 7, 3, *purpose])).collect();
    Extension { oid: EXTENDED_KEY_USAGE.to_vec(), critical: false, value: sequence(&[&purposes]) }
}

pub(crate) fn basic_constraints(authority: bool, path_length: Option<u8>) -> Extension {
    let authority = if authority { vec![1, 1, 0xff] } else { vec![] };
    let path_length = path_length.map_or(vec![], |length| tagged(2, &[length]));
    Extension { oid: BASIC_CONSTRAINTS.to_vec(), critical: true, value: sequence(&[&authority, &path_length]) }
}

pub(crate) fn names(names: &[Vec<u8>]) -> Extension {
    Extension { oid: SUBJECT_ALT_NAME.to_vec(), critical: false, value: sequence(&[&names.concat()]) }
}

pub(crate) fn uri(text: impl AsRef<[u8]>) -> Vec<u8> {
    tagged(0x86, text.as_ref())
}

pub(crate) fn dns(text: &str) -> Vec<u8> {
    tagged(0x82, text.as_bytes())
}

/// A SubjectPublicKeyInfo for an elliptic curve; the point need not be on it.
pub(crate) fn ec_key(curve: &[u8], point_bytes: usize) -> Vec<u8> {
    let algorithm = sequence(&[&tagged(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), &tagged(6, curve)]);
    let mut point = vec![0x5a; point_bytes];
    point[0] = 4;
    sequence(&[&algorithm, &bit_string(&point)])
}

/// A SubjectPublicKeyInfo for P-256 whose point is not on the curve.
pub(crate) fn p256_key() -> Vec<u8> {
    ec_key(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], 65)
}

/// A SubjectPublicKeyInfo for P-192.
pub(crate) fn p192_key() -> Vec<u8> {
    ec_key(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1], 49)
}

/// A SubjectPublicKeyInfo for Ed448.
pub(crate) fn ed448_key() -> Vec<u8> {
    sequence(&[ED448, &bit_string(&[0x5a; 57])])
}

/// A SubjectPublicKeyInfo for RSA with a modulus of `bits` bits, and zeros in front of it to hide its size.
pub(crate) fn rsa_key(bits: usize, leading_zeros: usize) -> Vec<u8> {
    let mut modulus = vec![0u8; leading_zeros];
    modulus.extend(vec![0xc5; bits / 8]);
    let key = sequence(&[&tagged(2, &modulus), &tagged(2, &[1, 0, 1])]);
    let algorithm = sequence(&[&tagged(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), &[5, 0]]);
    sequence(&[&algorithm, &bit_string(&key)])
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

pub(crate) fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut der = vec![tag];
    let byte = |length: usize| u8::try_from(length).expect("it is below 128");
    if content.len() <= 0x7f {
        der.push(byte(content.len()));
    } else {
        der.push(0x80 | byte(significant.len()));
        der.extend(significant);
    }
    der.extend_from_slice(content);
    der
}

fn bit_string(content: &[u8]) -> Vec<u8> {
    tagged(3, &[&[0], content].concat())
}

fn common_name(name: &str) -> Vec<u8> {
    let attribute = sequence(&[&tagged(6, &[0x55, 4, 3]), &tagged(12, name.as_bytes())]);
    sequence(&[&tagged(0x31, &attribute)])
}

/// Chance from a seed that is printed: `SEED=N` draws the same again. It is xorshift64*.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn seeded() -> Self {
        let drawn = || getrandom::u64().expect("the system has randomness");
        let given = std::env::var("SEED").ok();
        let seed = given.map_or_else(drawn, |seed| seed.parse().expect("SEED is a number"));
        println!("SEED={seed}");
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits fit") % end
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// One to six changes: bits, bytes, something cut off, put in, taken out or doubled. Something is left.
    pub(crate) fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(80)).min(bytes.len());
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.byte(),
                // What lengths and tags of DER like to be mistaken in.
                2 => bytes[at] = [0, 1, 0x30, 0x7f, 0x80, 0x81, 0x84, 0xa0, 0xff][self.below(9)],
                3 => bytes.truncate(at.max(1)),
                4 => {
                    let count = self.below(40);
                    let more = self.bytes(count);
                    bytes.splice(at..at, more).for_each(drop);
                }
                5 => drop(bytes.drain(at..end)),
                _ => {
                    let copied = bytes[at..end].to_vec();
                    bytes.splice(at..at, copied).for_each(drop);
                }
            }
            if bytes.is_empty() {
                bytes.push(0x30);
            }
        }
    }
}
