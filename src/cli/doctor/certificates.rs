//! How long certificates, authorities and revocation lists are good for.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::time::ASN1Time;

use super::in_words;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::server::Finding;

/// Time enough to have a new one signed.
const SHORT: Duration = Duration::from_hours(14 * 24);

/// From when to when a thing is good, in seconds since 1970.
#[derive(Clone, Copy)]
struct Life {
    from: i64,
    to: i64,
}

/// What a file is to us.
#[derive(Clone, Copy)]
enum Content {
    Certificates,
    Lists,
}

pub(super) fn look(config: &Config, now: Timestamp) -> Vec<Finding> {
    let now = i64::try_from(now.millis() / 1_000).unwrap_or(i64::MAX);
    let own = ("certificate".to_owned(), &config.server.certificate, Content::Certificates);
    let others = config.trust_domains.iter().flat_map(|domain| {
        let bundle = (format!("authority of {}", domain.name), &domain.bundle, Content::Certificates);
        let list = |path| (format!("revocation list of {}", domain.name), path, Content::Lists);
        std::iter::once(bundle).chain(domain.crls.iter().map(list))
    });
    let of_sinks = config.audit.sinks.iter().flat_map(|sink| {
        let files = [("authority of sink", &sink.ca), ("certificate for sink", &sink.certificate)];
        let given = files.into_iter().filter_map(|(subject, path)| Some((subject, path.as_ref()?)));
        given.map(|(subject, path)| (format!("{subject} {}", sink.name), path, Content::Certificates))
    });
    let files = std::iter::once(own).chain(others).chain(of_sinks);
    files.map(|(subject, path, content)| judge(&subject, path, &lives(path, content), now)).collect()
}

/// The lives of all that is in a file.
fn lives(path: &Path, content: Content) -> Result<Vec<Life>, String> {
    let unreadable = |error: rustls::pki_types::pem::Error| error.to_string();
    let malformed = || "damaged: it can't be read as what it should be".to_owned();
    let life = |from: ASN1Time, to: ASN1Time| Life { from: from.timestamp(), to: to.timestamp() };
    let mut lives = Vec::new();
    match content {
        Content::Certificates => {
            for found in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                let der = found.map_err(unreadable)?;
                let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| malformed())?;
                lives.push(life(certificate.validity.not_before, certificate.validity.not_after));
            }
        }
        Content::Lists => {
            for found in CertificateRevocationListDer::pem_file_iter(path).map_err(unreadable)? {
                let der = found.map_err(unreadable)?;
                let (_, list) = x509_parser::parse_x509_crl(&der).map_err(|_| malformed())?;
                let to = list.next_update().ok_or_else(|| "a list does not say when the next one comes".to_owned())?;
                lives.push(life(list.last_update(), to));
            }
        }
    }
    if lives.is_empty() { Err("nothing of the kind is in it".to_owned()) } else { Ok(lives) }
}

fn judge(subject: &str, path: &Path, lives: &Result<Vec<Life>, String>, now: i64) -> Finding {
    let shown = path.display();
    let lives = match lives {
        Ok(lives) => lives,
        Err(problem) => return Finding::bad(subject, format!("{shown}: {problem}"), "put the right file there"),
    };
    // The one that ends first decides.
    let Some(life) = lives.iter().min_by_key(|life| life.to) else {
        return Finding::bad(subject, format!("{shown}: empty"), "put the right file there");
    };
    let span = |from: i64, to: i64| Duration::from_secs(u64::try_from(to.saturating_sub(from)).unwrap_or(0));
    if life.to <= now {
        let seen = format!("{shown} ended {} ago", in_words(span(life.to, now)));
        return Finding::bad(subject, seen, "put a new one there and restart");
    }
    if let Some(early) = lives.iter().find(|life| life.from > now) {
        let seen = format!("{shown} begins only in {}", in_words(span(now, early.from)));
        return Finding::bad(subject, seen, "is the clock right?");
    }
    let (left, whole) = (span(now, life.to), span(life.from, life.to));
    let seen = format!("{shown}, good for {} more", in_words(left));
    if left < SHORT || left < whole / 3 {
        return Finding::warn(subject, seen, "put a new one there soon, and restart");
    }
    Finding::ok(subject, seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Verdict;

    const DAY: i64 = 86_400;

    #[test]
    fn the_first_to_end_decides() {
        let verdict = |lives: &[(i64, i64)]| {
            let lives = lives.iter().map(|(from, to)| Life { from: from * DAY, to: to * DAY }).collect();
            judge("certificate", Path::new("c.pem"), &Ok(lives), 100 * DAY).verdict
        };
        assert_eq!(verdict(&[(99, 189)]), Verdict::Ok);
        assert_eq!(verdict(&[(40, 129)]), Verdict::Warn, "less than a third of its life");
        assert_eq!(verdict(&[(95, 110)]), Verdict::Warn, "less than two weeks");
        assert_eq!(verdict(&[(1, 100)]), Verdict::Bad);
        assert_eq!(verdict(&[(101, 300)]), Verdict::Bad);
        assert_eq!(verdict(&[(99, 189), (1, 50)]), Verdict::Bad);
    }

    #[test]
    fn files_that_are_something_else_are_bad() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.pem");
        let verdict = |content| judge("certificate", &path, &lives(&path, content), 0).verdict;
        assert_eq!(verdict(Content::Certificates), Verdict::Bad, "missing");
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "plain", text] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(verdict(Content::Certificates), Verdict::Bad, "{text:?}");
            assert_eq!(verdict(Content::Lists), Verdict::Bad, "{text:?}");
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        std::fs::write(&path, certificate.pem()).unwrap();
        assert_eq!(lives(&path, Content::Certificates).unwrap().len(), 1);
    }

    #[test]
    fn a_revocation_list_ends_when_the_next_one_is_due() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.pem");
        let mut authority = rcgen::CertificateParams::default();
        authority.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        let issuer = rcgen::Issuer::new(authority, rcgen::KeyPair::generate().unwrap());
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(2026, 2, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        std::fs::write(&path, list.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
        let begin = 1_767_225_600;
        let verdict = |day| judge("list", &path, &lives(&path, Content::Lists), begin + day * DAY).verdict;
        assert_eq!([-1, 1, 20, 31].map(verdict), [Verdict::Bad, Verdict::Ok, Verdict::Warn, Verdict::Bad]);
    }
}
