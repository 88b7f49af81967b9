//! SPIFFE IDs and trust domains, parsed strictly.
//!
//! Invariant: there is one spelling of each id. Whatever [`SpiffeId::parse`] accepts is kept byte for byte, so that
//! equal ids are equal strings and no two spellings name one caller.
//!
//! The grammar is that of the SPIFFE-ID standard, sections 2 and 2.1 to 2.3: `spiffe://` in lower case, a trust domain
//! of `[a-z0-9._-]`, a path of non-empty segments of `[A-Za-z0-9._-]` that are neither `.` nor `..`. User information,
//! port, query, fragment and percent-encoding have no place in it, so their characters are simply not allowed ones.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest id that the standard lets anyone rely on, in bytes.
pub const MAX_ID_BYTES: usize = 2048;

/// The longest trust domain name, in bytes.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// The id of one workload: a trust domain and a path that is not empty. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins: the first `/` after the trust domain.
    path_start: usize,
}

/// The name of a trust domain, as it stands between `spiffe://` and the path. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// Why a text is not a SPIFFE ID or a trust domain. The text itself is not repeated: it may come from anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// More than [`MAX_ID_BYTES`].
    #[error("the SPIFFE ID is longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// Something else than `spiffe://` at the start, or `spiffe` in another case.
    #[error("the id does not begin with \"spiffe://\" in lower case")]
    Scheme,
    /// Nothing between `spiffe://` and the path.
    #[error("the trust domain is empty")]
    TrustDomainEmpty,
    /// More than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")]
    TrustDomainTooLong,
    /// Upper case, a port, user information, a percent sign or anything else outside the alphabet.
    #[error("a trust domain has lower-case letters, digits, '.', '-' and '_' only")]
    TrustDomainCharacter,
    /// `spiffe://domain` alone: that names a trust domain and not a workload.
    #[error("the id names a trust domain and no workload in it: the path is missing")]
    PathMissing,
    /// The path ends in `/`.
    #[error("the path ends in '/'")]
    PathTrailingSlash,
    /// Two slashes in a row.
    #[error("the path has an empty segment")]
    PathEmptySegment,
    /// A segment `.` or `..`.
    #[error("the path has a segment '.' or '..'")]
    PathDotSegment,
    /// A query, a fragment, percent-encoding, a control character or anything else outside the alphabet.
    #[error("a path segment has letters, digits, '.', '-' and '_' only")]
    PathCharacter,
}

impl SpiffeId {
    /// Reads an id. Exactly one spelling is accepted; nothing is trimmed, decoded or folded.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let domain_length = rest.find('/').unwrap_or(rest.len());
        let (domain, path) = rest.split_at(domain_length);
        check_trust_domain(domain)?;
        check_path(path)?;
        Ok(Self { text: Arc::from(text), path_start: SCHEME.len() + domain_length })
    }

    /// The whole id, as it stood in the certificate.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path_start]
    }

    /// The path with its leading slash; never empty, never `/` alone.
    pub fn path(&self) -> &str {
        &self.text[self.path_start..]
    }

    /// Whether this workload belongs to `domain`, byte for byte.
    pub fn is_in(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == domain.as_str()
    }
}

impl TrustDomain {
    /// Reads the bare name of a trust domain, without `spiffe://`.
    pub fn parse(name: &str) -> Result<Self, SpiffeError> {
        check_trust_domain(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeError {
    /// A fixed word for metrics and audit events.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "spiffe_id_too_long",
            Self::Scheme => "spiffe_id_scheme",
            Self::TrustDomainEmpty => "spiffe_trust_domain_empty",
            Self::TrustDomainTooLong => "spiffe_trust_domain_too_long",
            Self::TrustDomainCharacter => "spiffe_trust_domain_character",
            Self::PathMissing => "spiffe_path_missing",
            Self::PathTrailingSlash => "spiffe_path_trailing_slash",
            Self::PathEmptySegment => "spiffe_path_empty_segment",
            Self::PathDotSegment => "spiffe_path_dot_segment",
            Self::PathCharacter => "spiffe_path_character",
        }
    }
}

/// Lets a map by trust domain be asked with the name that stands in an id.
impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(name: &str) -> Result<Self, SpiffeError> {
        Self::parse(name)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

fn check_trust_domain(name: &str) -> Result<(), SpiffeError> {
    if name.is_empty() {
        return Err(SpiffeError::TrustDomainEmpty);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeError::TrustDomainTooLong);
    }
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if name.bytes().all(allowed) { Ok(()) } else { Err(SpiffeError::TrustDomainCharacter) }
}

/// `path` is empty or begins with `/`: that is how the id was cut.
fn check_path(path: &str) -> Result<(), SpiffeError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Err(SpiffeError::PathMissing);
    };
    if segments.is_empty() || segments.ends_with('/') {
        return Err(SpiffeError::PathTrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match segment {
        "" => Err(SpiffeError::PathEmptySegment),
        "." | ".." => Err(SpiffeError::PathDotSegment),
        _ if segment.bytes().all(allowed) => Ok(()),
        _ => Err(SpiffeError::PathCharacter),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any text, and texts that come ever closer to being an id.
    const NEARLY_IDS: &str = "\\PC*|spiffe://[\\x00-\\x7f]{0,40}|spiffe://[a-zA-Z0-9._%/-]{0,60}";
    const PATHS: &str = "(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}){1,8}";

    /// Every spelling that must be refused (T-02) and the reason. The handshake tests send the same table in
    /// certificates.
    pub(crate) fn refused_spellings() -> Vec<(String, SpiffeError)> {
        let mut rows: Vec<(String, SpiffeError)> = [
            ("", SpiffeError::Scheme),
            ("a.example/payments", SpiffeError::Scheme),
            ("http://a.example/payments", SpiffeError::Scheme),
            ("https://a.example/payments", SpiffeError::Scheme),
            ("SPIFFE://a.example/payments", SpiffeError::Scheme),
            ("Spiffe://a.example/payments", SpiffeError::Scheme),
            ("spiffe:/a.example/payments", SpiffeError::Scheme),
            ("spiffe:a.example/payments", SpiffeError::Scheme),
            (" spiffe://a.example/payments", SpiffeError::Scheme),
            ("\0spiffe://a.example/payments", SpiffeError::Scheme),
            ("spiffe://", SpiffeError::TrustDomainEmpty),
            ("spiffe:///payments", SpiffeError::TrustDomainEmpty),
            ("spiffe://A.example/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a.EXAMPLE/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a%2eexample/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://user@a.example/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://user:word@a.example/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a.example:443/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a.example:/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a.example?x=/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a.example#/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a.example\0/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a.example\\payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://[::1]/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://\u{430}.example/payments", SpiffeError::TrustDomainCharacter),
            ("spiffe://a.example", SpiffeError::PathMissing),
            ("spiffe://a.example/", SpiffeError::PathTrailingSlash),
            ("spiffe://a.example/payments/", SpiffeError::PathTrailingSlash),
            ("spiffe://a.example//", SpiffeError::PathTrailingSlash),
            ("spiffe://a.example//payments", SpiffeError::PathEmptySegment),
            ("spiffe://a.example/payments//eu", SpiffeError::PathEmptySegment),
            ("spiffe://a.example/.", SpiffeError::PathDotSegment),
            ("spiffe://a.example/./payments", SpiffeError::PathDotSegment),
            ("spiffe://a.example/gateway/../payments", SpiffeError::PathDotSegment),
            ("spiffe://a.example/payments/..", SpiffeError::PathDotSegment),
            ("spiffe://a.example/pay%6dents", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments%2feu", SpiffeError::PathCharacter),
            ("spiffe://a.example/%2e%2e/payments", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments?x=y", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments?", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments#x", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments;v=1", SpiffeError::PathCharacter),
            ("spiffe://a.example/a:b", SpiffeError::PathCharacter),
            ("spiffe://a.example/a@b", SpiffeError::PathCharacter),
            ("spiffe://a.example/pay ments", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments ", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments\n", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments\0", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments\0/eu", SpiffeError::PathCharacter),
            ("spiffe://a.example/p\u{430}yments", SpiffeError::PathCharacter),
            ("spiffe://a.example/payments\u{200b}", SpiffeError::PathCharacter),
            ("spiffe://a.example/*", SpiffeError::PathCharacter),
        ]
        .into_iter()
        .map(|(text, error)| (text.to_owned(), error))
        .collect();
        rows.push((of_length(MAX_ID_BYTES + 1), SpiffeError::TooLong));
        rows.push((format!("spiffe://{}/payments", "a".repeat(256)), SpiffeError::TrustDomainTooLong));
        rows
    }

    /// A well-formed id of exactly `bytes` bytes.
    pub(crate) fn of_length(bytes: usize) -> String {
        let start = "spiffe://a.example/";
        format!("{start}{}", "p".repeat(bytes - start.len()))
    }

    #[test]
    fn every_other_spelling_is_refused_t_02() {
        for (text, error) in refused_spellings() {
            assert_eq!(SpiffeId::parse(&text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_longest_id_and_the_longest_trust_domain_are_accepted_t_02() {
        assert_eq!(of_length(MAX_ID_BYTES).len(), 2048);
        assert_eq!(SpiffeId::parse(&of_length(MAX_ID_BYTES)).unwrap().as_str(), of_length(2048));
        let domain = "a".repeat(MAX_TRUST_DOMAIN_BYTES);
        assert_eq!(SpiffeId::parse(&format!("spiffe://{domain}/x")).unwrap().trust_domain(), domain);
    }

    #[test]
    fn parts_are_those_of_the_text_t_02() {
        let id = SpiffeId::parse("spiffe://a-1_x.example/ns/Prod/sa/payments.v2").unwrap();
        assert_eq!(id.trust_domain(), "a-1_x.example");
        assert_eq!(id.path(), "/ns/Prod/sa/payments.v2");
        assert_eq!(id.to_string(), "spiffe://a-1_x.example/ns/Prod/sa/payments.v2");
        assert_eq!(format!("{id:?}"), "SpiffeId(spiffe://a-1_x.example/ns/Prod/sa/payments.v2)");
        assert!(id.is_in(&TrustDomain::parse("a-1_x.example").unwrap()));
        assert!(!id.is_in(&TrustDomain::parse("a-1_x.exampl").unwrap()));
        // Three dots are a name like any other; the standard forbids one and two.
        assert_eq!(SpiffeId::parse("spiffe://a/...").unwrap().path(), "/...");
    }

    #[test]
    fn a_trust_domain_is_found_and_shown_by_its_bare_name() {
        let domain = TrustDomain::parse("a-1_x.example").unwrap();
        let bundles = std::collections::HashMap::from([(domain.clone(), 7)]);
        let id = SpiffeId::parse("spiffe://a-1_x.example/payments").unwrap();
        assert_eq!(bundles.get(id.trust_domain()), Some(&7));
        assert_eq!(bundles.get("a-1_x.exampl"), None);
        assert_eq!(
            (domain.to_string(), format!("{domain:?}")),
            ("a-1_x.example".into(), "TrustDomain(a-1_x.example)".into())
        );
    }

    #[test]
    fn ids_differ_by_case_of_the_path_t_12() {
        let lower = SpiffeId::parse("spiffe://a.example/payments").unwrap();
        let upper = SpiffeId::parse("spiffe://a.example/Payments").unwrap();
        assert_ne!(lower, upper);
    }

    #[test]
    fn reasons_are_all_different() {
        let mut reasons: Vec<_> = refused_spellings().iter().map(|(_, error)| error.reason()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), 10, "each error occurs in the table and has a word of its own");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_what_it_accepts_t_02(text in NEARLY_IDS) {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text.clone());
                prop_assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id.clone());
                prop_assert!(TrustDomain::parse(id.trust_domain()).is_ok());
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"%?#@\\*".contains(&byte)));
            }
        }

        #[test]
        fn well_formed_ids_are_accepted_t_02(domain in "[a-z0-9._-]{1,255}", path in PATHS) {
            let text = format!("spiffe://{domain}{path}");
            let id = SpiffeId::parse(&text).unwrap();
            prop_assert_eq!((id.trust_domain(), id.path()), (domain.as_str(), path.as_str()));
        }
    }
}
