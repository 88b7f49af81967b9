//! What a configuration's mistakes lead to: an error that names the file and what to do, and no listener.

use std::path::Path;

use rcgen::{KeyPair, PublicKeyData};

use rustls::pki_types::UnixTime;

use super::door::{Authority, Door, PAYMENTS, set_mode, write_client, write_key, write_pem};
use crate::caller::forge::{self, Draft};
use crate::tls::{Acceptor, Config, Doubt, ServerIdentity, SetupError};

/// What `Acceptor::bind` says to the settings of a good door, changed by `change`.
async fn error_after(change: impl FnOnce(&Door, &mut Config, &Path)) -> SetupError {
    let door = Door::open().await;
    let mut config = door.config.clone();
    change(&door, &mut config, door.files.path());
    let error = Acceptor::bind(&config).err().expect("the change is a mistake");
    door.is_open_to_good_clients().await;
    error
}

#[tokio::test]
async fn keys_that_others_can_read_are_refused_i_04() {
    for mode in [0o640, 0o604, 0o620, 0o660, 0o644, 0o777, 0o601] {
        let error = error_after(|_, config, _| set_mode(&config.private_key, mode)).await;
        assert!(matches!(error, SetupError::KeyPermissions { .. }));
        let text = error.to_string();
        assert!(text.contains("server.key") && text.contains("chmod 600") && text.contains(&format!("{mode:04o}")));
    }
    let door = Door::open().await;
    set_mode(&door.config.private_key, 0o400);
    ServerIdentity::load(&door.config.certificate, &door.config.private_key).expect("read-only for its owner");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let missing = error_after(|_, config, _| config.certificate = "/nowhere/server.pem".into()).await;
    assert!(missing.to_string().contains("certificate /nowhere/server.pem"));
    let no_certificate = error_after(|_, config, _| std::fs::write(&config.certificate, "").unwrap()).await;
    assert!(matches!(no_certificate, SetupError::NoCertificate { .. }));
    let no_key = error_after(|_, config, _| std::fs::write(&config.private_key, "").unwrap()).await;
    assert!(matches!(no_key, SetupError::NoPrivateKey { .. }));
    let half = error_after(|_, config, _| {
        let text = std::fs::read(&config.certificate).unwrap();
        std::fs::write(&config.certificate, &text[..text.len() / 2]).unwrap();
    })
    .await;
    assert!(matches!(half, SetupError::Pem { .. }), "{half}");
    let garbage = error_after(|_, config, _| write_pem(&config.certificate, "CERTIFICATE", b"garbage")).await;
    assert!(matches!(garbage, SetupError::BadCertificate { .. }), "{garbage}");
    let bad_key = error_after(|_, config, _| write_pem(&config.private_key, "PRIVATE KEY", b"garbage")).await;
    assert!(matches!(bad_key, SetupError::NoPrivateKey { .. }), "{bad_key}");
    let other_key = error_after(|_, config, _| write_key(&config.private_key, &KeyPair::generate().unwrap())).await;
    assert!(matches!(other_key, SetupError::KeyMismatch { .. }), "{other_key}");
    let empty_bundle = error_after(|_, _, files| std::fs::write(files.join("b.pem"), "# none\n").unwrap()).await;
    assert!(empty_bundle.to_string().contains("b.pem"), "{empty_bundle}");
    let bad_bundle = error_after(|_, _, files| write_pem(&files.join("b.pem"), "CERTIFICATE", b"garbage")).await;
    assert!(matches!(bad_bundle, SetupError::BadAuthority { number: 1, .. }), "{bad_bundle}");
}

#[tokio::test]
async fn a_bundle_with_a_workloads_certificate_is_refused_i_06() {
    let door = Door::open().await;
    let file = door.files.path().join("mixed.pem");
    let (own, _) = write_client(door.files.path(), &door.a, PAYMENTS);
    let text = |name: &Path| std::fs::read_to_string(name).unwrap();
    std::fs::write(&file, text(&door.files.path().join("a.pem")) + &text(&own)).unwrap();
    let mut config = door.config.clone();
    config.trust_domains[0].bundle.clone_from(&file);
    let error = Acceptor::bind(&config).err().expect("nobody's certificate leads there");
    assert!(matches!(error, SetupError::NotAnAuthority { number: 2, .. }), "{error}");
    assert!(error.path() == Some(&*file) && error.to_string().contains("CA:TRUE"), "{error}");
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn it_is_said_why_clients_might_refuse_the_vault_i_06() {
    let door = Door::open().await;
    let now = UnixTime::now();
    let doubts = || {
        let own = ServerIdentity::load(&door.config.certificate, &door.config.private_key).unwrap();
        own.doubts(&door.config.trust_domains, now)
    };
    assert_eq!(doubts(), []);
    let key = KeyPair::generate().unwrap();
    let draft = || Draft::server(super::door::SERVER_ID, &door.a.name, key.subject_public_key_info());
    write_key(&door.config.private_key, &key);
    let stranger = Authority::new(&door.a.name);
    write_pem(&door.config.certificate, "CERTIFICATE", &stranger.sign(&draft()));
    let bundle = door.files.path().join("a.pem");
    assert_eq!(doubts(), [Doubt::OtherAuthority { bundle }]);
    write_pem(&door.config.certificate, "CERTIFICATE", &door.a.sign(&draft()));
    assert_eq!(doubts(), []);
    let clients_alone = || draft().with(forge::extended_key_usage(&[forge::CLIENT_AUTH]));
    write_pem(&door.config.certificate, "CERTIFICATE", &door.a.sign(&clients_alone()));
    assert_eq!(doubts(), [Doubt::NotForServers]);
    write_pem(&door.config.certificate, "CERTIFICATE", &stranger.sign(&clients_alone()));
    assert_eq!(doubts(), [Doubt::NotForServers], "the library looks for the authority of a server's certificate only");
    // Without an id nobody can say whose it should be.
    let no_id = draft().with(forge::names(&[forge::dns("localhost")]));
    write_pem(&door.config.certificate, "CERTIFICATE", &stranger.sign(&no_id));
    assert_eq!(doubts(), []);
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn settings_that_let_nobody_or_everybody_in_are_refused() {
    let none = error_after(|_, config, _| config.trust_domains.clear()).await;
    assert!(matches!(none, SetupError::NoTrustDomains));
    let twice = error_after(|_, config, _| config.trust_domains.push(config.trust_domains[0].clone())).await;
    assert!(matches!(twice, SetupError::TrustDomainTwice { .. }));
    let name = error_after(|_, config, _| config.trust_domains[0].name = "spiffe://a.example".into()).await;
    assert!(name.to_string().contains("without spiffe://"));
    let crls = error_after(|_, config, files| config.crls = vec![files.join("a.crl")]).await;
    assert!(matches!(crls, SetupError::RevocationNotSupported));
    let limit = error_after(|_, config, _| config.max_connections = 0).await;
    assert!(limit.to_string().contains("max_connections"));
    let time = error_after(|_, config, _| config.handshake_timeout = std::time::Duration::ZERO).await;
    assert!(time.to_string().contains("handshake_timeout"));
    let taken = error_after(|door, config, _| config.listen = door.address).await;
    assert!(taken.to_string().contains("another process"), "{taken}");
}

#[tokio::test]
async fn a_servers_own_id_is_optional_but_never_ambiguous() {
    let door = Door::open().await;
    let load = || ServerIdentity::load(&door.config.certificate, &door.config.private_key);
    assert_eq!(load().unwrap().id().unwrap().as_str(), super::door::SERVER_ID);
    let rewrite = |names: &[Vec<u8>]| {
        let key = KeyPair::generate().unwrap();
        let draft = Draft::server(super::door::SERVER_ID, &door.a.name, key.subject_public_key_info());
        write_pem(&door.config.certificate, "CERTIFICATE", &door.a.sign(&draft.with(forge::names(names))));
        write_key(&door.config.private_key, &key);
    };
    rewrite(&[forge::dns("localhost")]);
    assert!(load().unwrap().id().is_none());
    rewrite(&[forge::uri("spiffe://a.example/x"), forge::uri("spiffe://a.example/y")]);
    assert!(matches!(load(), Err(SetupError::BadCertificate { .. })));
    rewrite(&[forge::uri("https://a.example/")]);
    assert!(matches!(load(), Err(SetupError::BadCertificate { .. })));
}
