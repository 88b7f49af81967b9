//! Many callers, each with a certificate of its own from the development authority that `init` made.
//!
//! They share one key: what a vault sees of a caller is its certificate. All are made before anything is measured.

use super::place::Place;
use super::{Error, io};
use crate::clock::SystemClock;
use crate::tls::client::{Config, Connector};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
    date_time_ymd,
};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Of the sample configuration, whose authority vouches for it alone.
pub(super) const TRUST_DOMAIN: &str = "spiffe://dev.cloakroom.internal/";
/// Before and after now.
const VALID: Duration = Duration::from_hours(24);
const CALLERS: [&str; 2] = ["gateway", "payments"];

/// How many of each kind of caller there are.
pub(super) struct Identities(usize);

impl Identities {
    /// Makes certificates for so many gateways and as many payments, and the roles `bench-gateway` and `bench-payments` for
    /// them in the configuration.
    pub(super) fn make(place: &Place, each: usize) -> Result<Self, Error> {
        let pki = place.path().join("pki");
        let unmade = |error: &dyn std::fmt::Display| Error::Connect(format!("can't make certificates: {error}"));
        let read = |name: &str| fs::read_to_string(pki.join(name)).map_err(io("can't read the authority"));
        let authority_key = KeyPair::from_pem(&read("ca.key")?).map_err(|error| unmade(&error))?;
        let authority = Issuer::from_ca_cert_pem(&read("ca.pem")?, authority_key).map_err(|error| unmade(&error))?;
        let key = KeyPair::generate().map_err(|error| unmade(&error))?;
        let unwritten = io("can't write a certificate");
        fs::create_dir_all(pki.join("many")).map_err(&unwritten)?;
        for caller in CALLERS {
            write_private(&pki.join(format!("many/{caller}.key")), &key.serialize_pem()).map_err(&unwritten)?;
            for number in 0..each {
                let certificate = leaf(caller, number)
                    .and_then(|params| params.signed_by(&key, &authority))
                    .map_err(|error| unmade(&error))?;
                fs::write(certificate_file(place, caller, number), certificate.pem()).map_err(&unwritten)?;
            }
            place.add_role(&format!("bench-{caller}"), &format!("{TRUST_DOMAIN}{caller}/*"))?;
        }
        Ok(Self(each))
    }

    /// One for each of them.
    pub(super) fn connectors(&self, place: &Place, caller: &str) -> Result<Vec<Connector>, Error> {
        let connector = |number| {
            let config = Config {
                authorities: place.path().join("pki/ca.pem"),
                certificate: certificate_file(place, caller, number),
                private_key: place.path().join(format!("pki/many/{caller}.key")),
                server_name: None,
                server_id: None,
            };
            Connector::new(&config).map_err(|error| Error::Connect(error.to_string()))
        };
        (0..self.0).map(connector).collect()
    }
}

fn certificate_file(place: &Place, caller: &str, number: usize) -> std::path::PathBuf {
    place.path().join(format!("pki/many/{caller}-{number}.pem"))
}

/// As the vault wants it: one SPIFFE ID, for signatures, for clients, good now and not for long.
fn leaf(caller: &str, number: usize) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(SystemClock::shared().wall().seconds());
    params.not_before = now - VALID;
    params.not_after = now + VALID;
    params.serial_number = Some(SerialNumber::from(number as u64 + 1));
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("{TRUST_DOMAIN}{caller}/{number}"))?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn write_private(path: &Path, content: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())
}
