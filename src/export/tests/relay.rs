//! A receiver of syslog that behaves as a test says, and remembers what it was sent. Without TLS: what is tested is what
//! becomes of messages; TLS is for the tests of the whole program.

use super::{HANG, parser};
use crate::export::Target;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How it treats a connection.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    /// Takes everything.
    Reads,
    /// Takes so many bytes and ends the connection.
    HangsUpAfter(usize),
    /// Takes nothing and ends the connection.
    HangsUpAtOnce,
    /// Takes so many messages, keeps none of them, and ends the connection.
    ForgetsAfter(usize),
    /// Lets everything pile up.
    NeverReads,
}

pub(super) struct Relay {
    port: u16,
    seen: watch::Receiver<Vec<u64>>,
    connections: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub async fn start(manner: impl Fn(usize) -> Manner + Send + 'static) -> Self {
        Self::start_at(0, manner).await
    }

    pub async fn start_at(port: u16, manner: impl Fn(usize) -> Manner + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (see, seen) = watch::channel(Vec::new());
        let (count, connections) = watch::channel(0);
        let see = Arc::new(see);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let manner = manner(*count.borrow());
                count.send_modify(|count| *count += 1);
                let see = Arc::clone(&see);
                tokio::spawn(async move { treat(stream, manner, &see).await });
            }
        });
        Self { port, seen, connections, task }
    }

    pub fn target(&self) -> Target {
        Target::Syslog { host: "127.0.0.1".to_owned(), port: self.port }
    }

    pub fn seen(&self) -> Vec<u64> {
        self.seen.borrow().clone()
    }

    pub fn connections(&self) -> usize {
        *self.connections.borrow()
    }

    pub async fn until(&self, there: impl FnMut(&Vec<u64>) -> bool) {
        let mut seen = self.seen.clone();
        drop(tokio::time::timeout(HANG, seen.wait_for(there)).await.expect("this never came").unwrap());
    }

    pub async fn until_connections(&self, count: usize) {
        let mut connections = self.connections.clone();
        let came = tokio::time::timeout(HANG, connections.wait_for(|open| *open >= count)).await;
        drop(came.expect("this never came").unwrap());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn treat(mut stream: TcpStream, manner: Manner, see: &watch::Sender<Vec<u64>>) {
    let mut buffer = Vec::new();
    let (mut bytes, mut messages) = (0, 0);
    let at_most = match manner {
        Manner::HangsUpAtOnce => return,
        Manner::NeverReads => std::future::pending().await,
        Manner::HangsUpAfter(at_most) => at_most,
        Manner::Reads | Manner::ForgetsAfter(_) => usize::MAX,
    };
    while bytes < at_most {
        let mut part = vec![0; 65_536.min(at_most - bytes)];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                bytes += length;
                buffer.extend_from_slice(&part[..length]);
            }
        }
        while let Some((message, rest)) = parser::first_frame(&buffer).unwrap() {
            let message = parser::message(message).unwrap();
            let sequence = message.json()["sequence"].as_u64().unwrap();
            assert_eq!(message.parameter("meta", "sequenceId"), Some((sequence + 1).to_string().as_str()));
            buffer = rest.to_vec();
            messages += 1;
            match manner {
                Manner::ForgetsAfter(count) if messages == count => return,
                Manner::ForgetsAfter(_) => {}
                _ => see.send_modify(|seen| seen.push(sequence)),
            }
        }
    }
}
