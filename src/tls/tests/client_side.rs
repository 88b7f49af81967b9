//! Our own client at this door: T-13.

use http::Uri;
use tokio::io::AsyncReadExt;
use tower::{Service, ServiceExt};

use super::door::{Authority, Door, PAYMENTS, SERVER_ID, set_mode, write_client, write_pem};
use crate::tls::client::{Config, Connector};

/// A good client's settings, with its files beside the door's.
fn settings(door: &Door) -> Config {
    let (certificate, private_key) = write_client(door.files.path(), &door.a, PAYMENTS);
    Config {
        authorities: door.files.path().join("a.pem"),
        certificate,
        private_key,
        server_name: Some("localhost".to_owned()),
        server_id: Some(SERVER_ID.parse().unwrap()),
    }
}

async fn connect(door: &Door, config: &Config) -> std::io::Result<String> {
    let mut stream = Connector::new(config).unwrap().connect("127.0.0.1", door.address.port()).await?;
    let mut greeting = vec![0; PAYMENTS.len()];
    stream.read_exact(&mut greeting).await?;
    Ok(String::from_utf8(greeting).unwrap())
}

#[tokio::test]
async fn the_right_server_is_recognised_t_13() {
    let door = Door::open().await;
    assert_eq!(connect(&door, &settings(&door)).await.unwrap(), PAYMENTS);
    let any_id = Config { server_id: None, ..settings(&door) };
    assert_eq!(connect(&door, &any_id).await.unwrap(), PAYMENTS);
}

#[tokio::test]
async fn the_wrong_server_is_left_before_anything_is_sent_t_13() {
    let mut door = Door::open().await;
    let stranger = Authority::new("stranger");
    write_pem(&door.files.path().join("stranger.pem"), "CERTIFICATE", &stranger.der);
    let rows = [
        ("another id", Config { server_id: Some("spiffe://a.example/impostor".parse().unwrap()), ..settings(&door) }),
        ("another case", Config { server_id: Some("spiffe://a.example/Vault".parse().unwrap()), ..settings(&door) }),
        ("another name", Config { server_name: Some("vault.example".to_owned()), ..settings(&door) }),
        ("an address", Config { server_name: None, ..settings(&door) }),
        ("another authority", Config { authorities: door.files.path().join("stranger.pem"), ..settings(&door) }),
    ];
    for (what, config) in rows {
        assert!(connect(&door, &config).await.is_err(), "{what}");
        let failure = door.failure().await;
        assert_eq!((failure.reason, failure.certificate_sha256), ("refused_by_peer", None), "{what}");
        assert_eq!(connect(&door, &settings(&door)).await.unwrap(), PAYMENTS);
    }
}

async fn called(connector: &mut Connector, port: u16) -> String {
    let server: Uri = format!("http://127.0.0.1:{port}").parse().unwrap();
    connector.ready().await.unwrap().call(server).await.expect_err("it is refused").to_string()
}

/// However the vault closes: with an alert, or without one.
#[tokio::test]
async fn a_certificate_that_the_vault_refuses_is_named_t_13() {
    let mut door = Door::open().await;
    let good = settings(&door);
    let stranger = Authority::new("a");
    let (certificate, private_key) = write_client(door.files.path(), &stranger, PAYMENTS);
    let mut connector = Connector::new(&Config { certificate: certificate.clone(), private_key, ..good }).unwrap();
    for _ in 0..20 {
        let said = called(&mut connector, door.address.port()).await;
        let file = certificate.display().to_string();
        assert!(said.contains("fatal alert") && said.contains(&file) && said.contains("good until"), "{said}");
        door.failure().await;
    }
    // The same server without a word: a listener that takes the handshake and closes.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(crate::tls::build_server_config(&door.config).unwrap());
    let closing = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        drop(acceptor.accept(tcp).await.unwrap());
    });
    let mut connector = Connector::new(&settings(&door)).unwrap();
    let said = called(&mut connector, port).await;
    assert!(said.contains("right after the handshake") && said.contains("good until"), "{said}");
    closing.await.unwrap();
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn who_is_there_instead_is_said_in_words_t_13() {
    let mut door = Door::open().await;
    let port = door.address.port();
    let stranger = Authority::new("stranger");
    let authorities = door.files.path().join("stranger.pem");
    write_pem(&authorities, "CERTIFICATE", &stranger.der);
    let impostor = "spiffe://a.example/impostor";
    let rows = [
        (
            Config { server_id: Some(impostor.parse().unwrap()), ..settings(&door) },
            format!("the server at 127.0.0.1:{port} is {SERVER_ID}, the profile's server_id wants {impostor}"),
        ),
        (
            Config { authorities: authorities.clone(), ..settings(&door) },
            format!(
                "the certificate of the server at 127.0.0.1:{port} is not vouched for by {} (ca)",
                authorities.display()
            ),
        ),
    ];
    for (config, expected) in rows {
        assert_eq!(called(&mut Connector::new(&config).unwrap(), port).await, expected);
        door.failure().await;
    }
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    let answering = tokio::spawn(async move {
        let (mut tcp, _) = plain.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tcp
    });
    let said = called(&mut Connector::new(&settings(&door)).unwrap(), port).await;
    assert_eq!(said, format!("what answers at 127.0.0.1:{port} does not speak TLS: is it the operations listener?"));
    drop(answering.await.unwrap());
    door.is_open_to_good_clients().await;
}

#[tokio::test]
async fn the_connector_is_a_service_for_http_clients() {
    let door = Door::open().await;
    let mut connector = Connector::new(&settings(&door)).unwrap();
    let server: Uri = format!("http://127.0.0.1:{}", door.address.port()).parse().unwrap();
    connector.ready().await.unwrap().call(server).await.expect("connected");
    let no_port = connector.ready().await.unwrap().call("http://127.0.0.1/".parse().unwrap()).await;
    assert!(no_port.err().unwrap().to_string().contains("port"));
    let no_name = Config { server_name: Some("not a name".to_owned()), ..settings(&door) };
    assert!(Connector::new(&no_name).is_err());
    let readable = settings(&door);
    set_mode(&readable.private_key, 0o644);
    assert!(Connector::new(&readable).is_err(), "a client's key is as private as a server's");
    door.is_open_to_good_clients().await;
}
