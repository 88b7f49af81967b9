//! The client against servers that do as they like, over loopback.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, channel};
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_mins(1);

/// Listens on loopback, answers the requests of each connection with the next of its list of texts, and then hangs up.
/// Tells the requests' first lines and bodies.
fn server(connections: Vec<Vec<String>>) -> (SocketAddr, Receiver<(String, String)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for answers in connections {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for answer in answers {
                let Some(request) = read(&mut reader) else { break };
                let _ = tell.send(request);
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    (address, told)
}

fn read(reader: &mut impl BufRead) -> Option<(String, String)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|length| *length > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(number) = line.strip_prefix("content-length: ") {
            length = number.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first.trim_end().to_owned(), String::from_utf8(body).unwrap()))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn client(address: SocketAddr, path: &str) -> Client {
    Client::new(format!("http://{address}{path}").parse().unwrap(), None).unwrap()
}

async fn post(client: &Client, body: &str) -> Result<Answer, Failed> {
    client.post("/do", "text/plain", body.to_owned(), PATIENCE).await
}

fn said(body: &str) -> Answer {
    Answer { status: 200, content_type: "text/x".to_owned(), body: body.as_bytes().to_vec() }
}

#[test]
fn a_base_is_a_server_and_nothing_more() {
    for (text, host, port, path) in [
        ("http://localhost", "localhost", 80, ""),
        ("https://w.example", "w.example", 443, ""),
        ("https://w.example/", "w.example", 443, ""),
        ("https://w.example:7445/log/a/", "w.example", 7445, "/log/a"),
        ("http://127.0.0.1:1", "127.0.0.1", 1, ""),
        ("http://[::1]:7445", "::1", 7445, ""),
        ("http://[::1]", "::1", 80, ""),
    ] {
        let base: Base = text.parse().unwrap();
        assert_eq!((base.host.as_str(), base.port, base.path.as_str()), (host, port, path), "{text}");
        assert_eq!(base.secure, text.starts_with("https"), "{text}");
        assert_eq!(base.to_string(), text.trim_end_matches('/'));
    }
    for text in [
        "",
        "w.example",
        "w.example:7445",
        "ftp://w.example",
        "http://",
        "http:///a",
        "http://a b",
        "http://u:p@w.example",
        "http://u@w.example",
        "http://w.example?a=b",
        "http://w.example/#a",
        "http://w.example:99999",
        "http://w.example:",
        "http://w_.example:x",
    ] {
        assert_eq!(text.parse::<Base>(), Err(BaseError), "{text}");
    }
}

#[tokio::test]
async fn a_connection_is_used_again_and_replaced_when_it_is_gone() {
    let (address, told) = server(vec![vec![ok("1"), ok("2")], vec![ok("3")]]);
    let client = client(address, "/base");
    for number in ["1", "2", "3"] {
        assert_eq!(post(&client, &format!("body {number}")).await.unwrap(), said(number));
        let (first, body) = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!((first.as_str(), body), ("POST /base/do HTTP/1.1", format!("body {number}")));
    }
}

#[tokio::test]
async fn any_status_is_an_answer_and_is_not_followed() {
    let moved = "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_owned();
    let (address, _) = server(vec![vec![moved]]);
    let answer = post(&client(address, ""), "x").await.unwrap();
    assert_eq!((answer.status, answer.content_type.as_str()), (302, ""));
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    let endless = format!("HTTP/1.1 200 OK\r\ncontent-length: {0}\r\n\r\n{1}", 70_000, "x".repeat(70_000));
    let (address, _) = server(vec![vec![endless]]);
    assert!(matches!(post(&client(address, ""), "x").await, Err(Failed::TooLong)));
    for broken in ["", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", "220 smtp.example ready\r\n"] {
        let (address, _) = server(vec![vec![broken.to_owned()]]);
        assert!(matches!(post(&client(address, ""), "x").await, Err(Failed::Broken(_))), "{broken:?}");
    }
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    assert!(matches!(post(&client(gone, ""), "x").await, Err(Failed::Connect(_))));
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_the_deadline_and_no_more() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = client(silent.local_addr().unwrap(), "");
    let short = Duration::from_millis(50);
    for _ in 0..2 {
        let failed = client.post("/do", "text/plain", "x", short).await.unwrap_err();
        assert!(matches!(failed, Failed::Deadline(_)), "{failed}");
        assert!(client.idle.lock().is_none(), "a connection with an answer to come is not used again");
    }
}

// === TLS ===

struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server with a certificate for `name`, which answers one request on each connection.
    async fn serve(&self, name: &str) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let (chain, private) = (self.folder.path().join("s.pem"), self.folder.path().join("s.key"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&private).unwrap();
        file.write_all(key.serialize_pem().as_bytes()).unwrap();
        let acceptor = TlsAcceptor::from(web::server_config(&chain, &private).unwrap());
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(tcp).await else { continue };
                let answer = hyper::service::service_fn(|_| async {
                    Ok::<_, Infallible>(http::Response::new("yes".to_owned()))
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                tokio::spawn(connection);
            }
        });
        address
    }
}

#[tokio::test]
async fn over_https_the_server_proves_its_name_under_the_given_authority() {
    let (ours, other) = (Authority::new("one"), Authority::new("another"));
    let (right, wrong) = (ours.serve("localhost").await, ours.serve("other.example").await);
    let ask = async |address: SocketAddr, authority: &Authority| {
        let base = format!("https://localhost:{}", address.port()).parse().unwrap();
        post(&Client::new(base, Some(&authority.file())).unwrap(), "x").await
    };
    assert_eq!(ask(right, &ours).await.unwrap().body, b"yes");
    for (address, authority, expected) in [(right, &other, "UnknownIssuer"), (wrong, &ours, "not valid for name")] {
        let failed = ask(address, authority).await.unwrap_err();
        assert!(matches!(&failed, Failed::Connect(_)) && failed.to_string().contains(expected), "{failed}");
    }
    let base: Base = format!("https://localhost:{}", right.port()).parse().unwrap();
    assert!(matches!(Client::new(base.clone(), None), Err(SetupError::NoAuthorities { .. })));
    assert!(Client::new(base, Some(Path::new("/nowhere/ca.pem"))).is_err());
    // Plain HTTP where TLS is spoken, and the other way round.
    let plain = Client::new(format!("http://localhost:{}", right.port()).parse().unwrap(), None).unwrap();
    assert!(post(&plain, "x").await.is_err());
    let (plain, _) = server(vec![vec![ok("1")]]);
    assert!(matches!(ask(plain, &ours).await, Err(Failed::Connect(_))));
}
