//! What the service manager is told, where there is one that asked: sd_notify(3). That the vault serves, why it is not ready, that
//! it stops, and from time to time that it goes on.
//!
//! It is a datagram to a socket that the environment names, which the standard library sends, abstract names too: less than a
//! dependency would cost to look after. Nothing of a request is ever in one. Where nobody asked, nothing is opened.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{self, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// A manager that does not read is not waited for: the vault serves all the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// A disk may stand still for a while, and the vault goes on by itself when the disk does. Whatever keeps the writer at the same
/// commit for longer than this is taken for a fault that a new start may mend. Nothing that was acknowledged is lost by it.
const STANDS_STILL_AT_MOST: Duration = Duration::from_mins(5);

/// The service manager. Clones share it.
#[derive(Clone)]
pub(super) struct Supervisor(Arc<Option<Socket>>);

struct Socket {
    sender: UnixDatagram,
    address: net::SocketAddr,
    /// Within so much time it wants a sign of life, if it wants any.
    watchdog: Option<Duration>,
}

/// When the manager is told that the vault goes on.
pub(super) struct SignsOfLife {
    supervisor: Supervisor,
    period: Option<Duration>,
    last: Option<Duration>,
}

/// What the writer is seen to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    /// For how long it has been at the same commit.
    pub waited: Duration,
    /// Whether it has failed, so that the process is about to end.
    pub has_failed: bool,
}

impl Supervisor {
    /// The one that the environment names. If it can't be reached, that is said in the log, and nobody is told anything.
    pub fn of_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self(Arc::new(None)) };
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        // Meant for another process, if it names one: a wrapper that starts this one.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        match Socket::named(&name, watchdog) {
            Ok(socket) => Self(Arc::new(Some(socket))),
            Err(error) => {
                tracing::warn!(%error, "the service manager can't be told anything: NOTIFY_SOCKET names no socket of use");
                Self(Arc::new(None))
            }
        }
    }

    #[cfg(test)]
    pub fn at(path: &std::path::Path) -> Self {
        Self(Arc::new(Some(Socket::named(path.as_os_str(), None).unwrap())))
    }

    /// Says what the vault is at, in words.
    pub fn status(&self, words: &str) {
        self.send(&format!("STATUS={words}"));
    }

    /// Says that the vault serves.
    pub fn ready(&self, address: SocketAddr) {
        self.send(&format!("READY=1\nSTATUS=serving on {address}"));
    }

    /// Says that the vault has begun to stop.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping: calls in flight may finish");
    }

    /// For who sees what the writer does.
    pub fn signs_of_life(&self) -> SignsOfLife {
        let watchdog = self.0.as_ref().as_ref().and_then(|socket| socket.watchdog);
        // Half of it, as sd_watchdog_enabled(3) advises.
        SignsOfLife { supervisor: self.clone(), period: watchdog.map(|watchdog| watchdog / 2), last: None }
    }

    fn send(&self, message: &str) {
        if let Some(Socket { sender, address, .. }) = self.0.as_ref()
            && let Err(error) = sender.send_to_addr(message.as_bytes(), address)
        {
            tracing::warn!(%error, "the service manager could not be told what the vault does");
        }
    }
}

impl Socket {
    /// An `@` stands for the byte 0, with which abstract names begin.
    fn named(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => net::SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => net::SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "it is neither a path nor an abstract name")),
        };
        let sender = UnixDatagram::unbound()?;
        sender.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { sender, address, watchdog })
    }
}

impl SignsOfLife {
    /// Gives one if it is time and the writer goes on. `now` is on a clock that never runs backwards.
    pub fn look(&mut self, now: Duration, writing: Writing) {
        if self.is_due(now, writing) {
            self.supervisor.send("WATCHDOG=1");
        }
    }

    fn is_due(&mut self, now: Duration, writing: Writing) -> bool {
        let Some(period) = self.period else { return false };
        let goes_on = !writing.has_failed && writing.waited <= STANDS_STILL_AT_MOST;
        let is_due = goes_on && self.last.is_none_or(|last| now.saturating_sub(last) >= period);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn supervisor(name: &OsStr, watchdog: Option<Duration>) -> Supervisor {
        Supervisor(Arc::new(Some(Socket::named(name, watchdog).unwrap())))
    }

    #[test]
    fn a_manager_is_reached_by_path_and_by_abstract_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let bound = UnixDatagram::bind(&path).unwrap();
        supervisor(path.as_os_str(), None).ready(([127, 0, 0, 1], 7443).into());
        assert_eq!(told(&bound), "READY=1\nSTATUS=serving on 127.0.0.1:7443");

        let name = format!("cloakroom-{}", std::process::id());
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        let bound = UnixDatagram::bind_addr(&address).unwrap();
        supervisor(format!("@{name}").as_ref(), None).stopping();
        assert_eq!(told(&bound), "STOPPING=1\nSTATUS=stopping: calls in flight may finish");
    }

    #[test]
    fn what_names_no_socket_is_refused_and_one_that_is_gone_is_no_harm() {
        for name in ["", "notify", "vsock:2:1234"] {
            assert!(Socket::named(name.as_ref(), None).is_err(), "{name}");
        }
        supervisor("/is/not/there".as_ref(), None).status("serving");
        Supervisor(Arc::new(None)).status("serving");
    }

    #[test]
    fn it_goes_on_for_as_long_as_the_writer_does() {
        let (second, fine) = (Duration::from_secs, Writing { waited: Duration::ZERO, has_failed: false });
        let mut signs = supervisor("/nowhere".as_ref(), Some(second(30))).signs_of_life();
        assert!(signs.is_due(second(1), fine), "at once");
        assert!(!signs.is_due(second(15), fine));
        assert!(signs.is_due(second(16), fine), "twice within its time");
        // A disk that stands still for a while is no reason to end the vault.
        let stalled = Writing { waited: second(299), ..fine };
        assert!(signs.is_due(second(40), stalled));
        assert!(!signs.is_due(second(80), Writing { waited: second(301), ..fine }));
        assert!(!signs.is_due(second(80), Writing { has_failed: true, ..fine }));
        assert!(signs.is_due(second(80), fine), "the disk goes on");

        let mut nobody_asked = supervisor("/nowhere".as_ref(), None).signs_of_life();
        assert!(!nobody_asked.is_due(second(1_000), fine));
    }
}
