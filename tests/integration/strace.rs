//! A vault under `strace`, and what its trace says about the order of things.
//!
//! `strace` sees each system call of each thread begin and end, and holds a thread at both points until it has written its
//! line. So if line 10 says that a call ended and line 11 that another began, then that is the order in which the kernel
//! did them.

use crate::harness::{Home, Server};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Everything that moves bytes to a file or a socket, takes them from a socket, or makes a file durable.
const CALLS: &str = "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,sendfile,splice,copy_file_range,\
                     read,readv,recvfrom,recvmsg,recvmmsg,fsync,fdatasync,sync_file_range,io_uring_setup";

/// How long the end of a process may take: a hundred times what is usual.
const END_AT_MOST: Duration = Duration::from_mins(2);

/// A vault with `strace` around it. Both are gone when this is dropped.
pub struct Traced {
    pub server: Option<Server>,
    vault: Pid,
    trace: PathBuf,
}

/// `strace` that came to a running vault. It ends with it, or when this is dropped.
pub struct Attached {
    strace: Child,
}

/// One system call.
#[derive(Clone, Debug)]
pub struct Step {
    pub call: String,
    pub target: Target,
    /// The line at which it began.
    pub begin: usize,
    /// The line at which it ended; none if it never did.
    pub end: Option<usize>,
    /// What it returned; negative for an error.
    pub result: i64,
    /// Whether `strace` put the result there.
    pub injected: bool,
}

/// What the first argument of a call is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A log of the database: where a commit goes first.
    WriteAheadLog(String),
    /// A connection, as `strace` names it.
    Connection(String),
    Other(String),
}

// === impl Traced ===

impl Traced {
    /// Runs `serve`, which starts the vault of `home`, under `strace` with these options besides its own.
    pub fn launch(home: &Home, serve: &Command, options: &[&str]) -> Self {
        let trace = home.file("trace");
        let mut command = Command::new("strace");
        // `-y` would do for files; with `-yy` connections have addresses. No byte of any buffer is written down.
        command.args(["-f", "-yy", "-s", "0", "--quiet=all", "-o"]).arg(&trace).args(options);
        command.arg(serve.get_program()).args(serve.get_args());
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let server = Server::launch(home, command).unwrap_or_else(|log| panic!("the vault did not start:\n{log}"));
        let vault = child_of(server.pid()).expect("strace has one child");
        Self { server: Some(server), vault, trace }
    }

    /// Under `strace`, which only watches.
    pub fn watch(home: &Home) -> Self {
        Self::launch(home, &home.serve_command(), &["-e", &format!("trace={CALLS}")])
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it is there until it ends")
    }

    /// Sends the vault SIGTERM; `strace` goes on.
    pub fn terminate(&self) {
        let _ = kill_process(self.vault, Signal::TERM);
    }

    /// Kills the vault and reads what was seen until then.
    pub fn kill(mut self) -> String {
        let _ = kill_process(self.vault, Signal::KILL);
        self.server.take().expect("it is there until it ends").wait();
        std::fs::read_to_string(&self.trace).unwrap()
    }

    /// Waits for the vault to end by itself. `strace` ends with the same status.
    pub fn end(mut self) -> (ExitStatus, String) {
        let server = self.server.take().expect("it is there until it ends");
        let (send, ended) = channel();
        std::thread::spawn(move || send.send(server.wait()));
        let status = ended.recv_timeout(END_AT_MOST).unwrap_or_else(|_| {
            let _ = kill_process(self.vault, Signal::KILL);
            panic!("the vault did not end by itself")
        });
        (status, std::fs::read_to_string(&self.trace).unwrap())
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // First the vault: without `strace` it would run on. If it has ended there is nothing to kill.
        if self.server.is_some() {
            let _ = kill_process(self.vault, Signal::KILL);
        }
    }
}

impl Attached {
    /// From the return of this function on, each thread of the vault is under `strace` with these options.
    pub fn to(server: &Server, options: &[&str]) -> Self {
        Self::to_process(server.pid(), options)
    }

    /// Only one thread of the vault, the one of this name.
    pub fn to_thread(server: &Server, name: &str, options: &[&str]) -> Self {
        let thread = thread(server.pid(), name).unwrap_or_else(|| panic!("the vault has no thread {name}"));
        let mut command = Command::new("strace");
        command.args(["--quiet=all", "-o", "/dev/null", "-p", &thread.to_string()]).args(options);
        let strace = command.stdin(Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/task/{thread}/status", server.pid());
        let begin = Instant::now();
        while !has_tracer(&std::fs::read_to_string(&status).unwrap()) {
            assert!(begin.elapsed() < END_AT_MOST, "strace does not come");
            std::thread::yield_now();
        }
        Self { strace }
    }

    /// As [`Attached::to`], of any process.
    pub fn to_process(pid: i32, options: &[&str]) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "--quiet=all", "-o", "/dev/null", "-p", &pid.to_string()]).args(options);
        let strace = command.stdin(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        while !is_traced(pid) {
            assert!(begin.elapsed() < END_AT_MOST, "strace does not come");
            std::thread::yield_now();
        }
        Self { strace }
    }
}

impl Attached {
    /// Waits until it ends with what it traces, which has been killed or told to end.
    pub fn end(mut self) {
        self.strace.wait().unwrap();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// The vault of `home` under strace, which kills it at its `number`-th `call`.
pub fn serve_until(home: &Home, call: &str, number: usize) -> Result<Server, String> {
    let inject = format!("inject={call}:signal=SIGKILL:when={number}");
    let options = ["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
    Server::launch(home, wrapped(&home.serve_command(), &options))
}

/// A command, and whatever it starts, under `strace` with these options besides its own.
pub fn wrapped(plain: &Command, options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-s", "0", "--quiet=all"]).args(options);
    command.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Whether all threads of a process have a tracer.
fn is_traced(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let statuses = threads.map(|thread| std::fs::read_to_string(thread.path().join("status")));
    statuses.into_iter().all(|status| status.is_ok_and(|status| has_tracer(&status)))
}

fn has_tracer(status: &str) -> bool {
    status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
}

/// The thread of a process that has this name.
pub fn thread(pid: i32, name: &str) -> Option<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let named = |folder: &Path| std::fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let thread = threads.map(|thread| thread.path()).find(|folder| named(folder))?;
    thread.file_name()?.to_str()?.parse().ok()
}

/// The one child of a process, while it has one.
pub fn child_of(parent: i32) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    Pid::from_raw(children.trim().parse().ok()?)
}

// === reading a trace ===

/// The steps of a trace in the order in which they began.
pub fn parse(trace: &str, data: &Path, vault: SocketAddr) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut unfinished: HashMap<(&str, &str), usize> = HashMap::new();
    for (line, text) in trace.lines().enumerate() {
        let Some((thread, text)) = text.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(resumed) = text.strip_prefix("<... ") {
            let Some((call, rest)) = resumed.split_once(" resumed>") else { continue };
            let begun = unfinished.remove(&(thread, call)).expect("what is resumed was begun");
            let step: &mut Step = &mut steps[begun];
            (step.end, step.result, step.injected) = (Some(line), result(rest), rest.contains("(INJECTED)"));
            continue;
        }
        let Some((call, arguments)) = text.split_once('(') else { continue };
        let target = target(arguments, data, vault);
        let mut step = Step { call: call.to_owned(), target, begin: line, end: None, result: -1, injected: false };
        if arguments.ends_with("<unfinished ...>") {
            unfinished.insert((thread, call), steps.len());
        } else {
            (step.end, step.result) = (Some(line), result(arguments));
            step.injected = arguments.contains("(INJECTED)");
        }
        steps.push(step);
    }
    steps
}

/// `… = 57`, `… = -1 EIO (Input/output error) (INJECTED)`, `… = ?`.
fn result(text: &str) -> i64 {
    let Some((_, result)) = text.rsplit_once(" = ") else { return -1 };
    result.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(-1)
}

/// `7</path>, …` or `7<TCP:[127.0.0.1:1->127.0.0.1:2]>, …`.
fn target(arguments: &str, data: &Path, vault: SocketAddr) -> Target {
    let end = if arguments.contains("<TCP:[") { "]>" } else { ">" };
    let name = arguments.split_once('<').and_then(|(_, rest)| rest.split_once(end)).map_or("", |(name, _)| name);
    let file = Path::new(name);
    if name.starts_with(&format!("TCP:[{vault}->")) {
        Target::Connection(name.to_owned())
    } else if file.parent() == Some(data) && file.extension().is_some_and(|extension| extension == "log") {
        Target::WriteAheadLog(name.to_owned())
    } else {
        Target::Other(name.to_owned())
    }
}

impl Step {
    pub fn is_write(&self) -> bool {
        matches!(self.call.as_str(), "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2")
    }

    pub fn is_sync(&self) -> bool {
        matches!(self.call.as_str(), "fdatasync" | "fsync")
    }

    /// Bytes for the client, or an attempt to send some.
    pub fn is_send(&self) -> bool {
        matches!(self.target, Target::Connection(_))
            && (self.is_write()
                || matches!(self.call.as_str(), "sendto" | "sendmsg" | "sendmmsg" | "sendfile" | "splice"))
    }

    /// Bytes from the client.
    pub fn is_receipt(&self) -> bool {
        let receives = matches!(self.call.as_str(), "read" | "readv" | "recvfrom" | "recvmsg" | "recvmmsg");
        matches!(self.target, Target::Connection(_)) && receives && self.result > 0
    }
}
