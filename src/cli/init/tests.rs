use std::os::unix::fs::PermissionsExt;

use x509_parser::prelude::*;

use super::*;
use crate::secret::SecretBytes;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn init(dir: &Path) -> anyhow::Result<String> {
    let mut output = Vec::new();
    run(&Options { dir: dir.to_owned() }, &mut output)?;
    Ok(String::from_utf8(output).unwrap())
}

#[test]
fn everything_of_the_contract_is_written_and_secrets_are_private_i_06() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("vault");
    let output = init(&dir).unwrap();
    assert!(output.contains("cloakroom serve --config"), "{output}");
    assert_eq!(mode(&dir), 0o700);
    for name in ["pki/ca.key", "pki/server.key", "pki/gateway.key", "pki/operator.key", "root.key", "log.key"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    for client in ["gateway", "payments", "auditor", "operator"] {
        crate::client::Profile::load(&dir.join(format!("profiles/{client}.toml"))).unwrap();
        assert!(dir.join(format!("pki/{client}.pem")).exists());
    }
    assert!(std::fs::read_to_string(dir.join("pki/ca.key")).unwrap().starts_with("# DEVELOPMENT ONLY"));
    provider::Provider::root_key(&provider::File::new(dir.join("root.key"))).unwrap();
    let log_key = SecretBytes::new(std::fs::read(dir.join("log.key")).unwrap());
    let verifier = LogKey::parse(&log_key).unwrap().verifier().to_string();
    assert_eq!(std::fs::read_to_string(dir.join("log.vkey")).unwrap().trim_end(), verifier);
    Config::load(&dir.join("cloakroom.toml"), []).unwrap();
}

#[test]
fn nothing_is_overwritten() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("vault");
    init(&dir).unwrap();
    let before = std::fs::read(dir.join("root.key")).unwrap();
    let error = init(&dir).unwrap_err();
    assert!(error.to_string().contains("never overwrites"), "{error}");
    assert_eq!(std::fs::read(dir.join("root.key")).unwrap(), before);
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(init(&file).unwrap_err().to_string().contains("not a folder"));
}

#[test]
fn of_two_at_the_same_time_one_makes_it_and_the_other_is_not_told_to_remove_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("vault");
    let folders = [Folder::create(&dir).unwrap(), Folder::create(&dir).unwrap()];
    folders[0].claim("pki").unwrap();
    let error = folders[1].claim("pki").unwrap_err();
    assert!(error.is::<crate::cli::Usage>());
    assert!(error.to_string().contains("another init writes to"), "{error}");
    assert!(error.to_string().contains("leave that one alone"), "{error}");
}

#[test]
fn leaves_follow_the_rules_that_the_vault_checks_t_01() {
    let authority = pki::Authority::generate(SystemClock::shared().wall()).unwrap();
    let leaf = authority.client_certificate("gateway").unwrap();
    let (_, pem) = parse_x509_pem(leaf.chain.as_bytes()).unwrap();
    crate::caller::leaf::check(&pem.contents).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth && !purposes.any);
    assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(matches!(names.as_slice(), [GeneralName::URI("spiffe://dev.cloakroom.internal/gateway")]));
    assert!(certificate.raw_serial().len() <= 20 && certificate.raw_serial()[0] < 0x80);

    let (_, pem) = parse_x509_pem(authority.certificate().as_bytes()).unwrap();
    let ca = pem.parse_x509().unwrap();
    let basic = ca.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca);
    assert!(ca.key_usage().unwrap().unwrap().critical);
    // The same start for both: one moment of making.
    assert_eq!(certificate.validity().not_before, ca.validity().not_before);
    let lifetime = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert_eq!(lifetime, 90 * 86_400 + 300);
}
