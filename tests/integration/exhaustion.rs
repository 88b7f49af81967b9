//! Too few file descriptors, threads or too little memory: calls are turned away or the process ends, and whatever was
//! acknowledged is there afterwards.

use crate::faults::{as_nobody, good_caller, home_of_nobody, kept};
use crate::harness::{Client, Home, Server, eventually, issued, item, texts};
use crate::needs;
use crate::promises::{Dice, Plan, Promises, Run, run};
use crate::strace::Attached;
use cloakroom::proto::v1;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tonic::Code;

const CONNECTIONS: usize = 40;

fn plan(callers: usize, calls: u64) -> Plan {
    Plan { seed: Dice::seed(), callers, calls, stamp: Box::new(|| 0) }
}

fn limit(server: &Server, resource: Resource, most: u64) {
    // It has this process's, which its parent is; only the soft one is moved, so that it can be moved back.
    let maximum = rustix::process::getrlimit(resource).maximum;
    prlimit(Pid::from_raw(server.pid()), resource, Rlimit { current: Some(most), maximum }).unwrap();
}

fn descriptors(server: &Server) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_file_descriptors_who_is_inside_is_served_and_others_later_s_15() {
    if !needs::met(&[]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let pid = server.pid();
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let most = descriptors(&server) + 4;
    limit(&server, Resource::Nofile, most);
    let mut waiting = tokio::task::JoinSet::new();
    let (address, identity) = (server.address, home.identity("gateway"));
    for _ in 0..CONNECTIONS {
        let identity = identity.clone();
        waiting.spawn(async move { crate::harness::Client::connect(address, &identity).await.is_ok() });
    }
    eventually("accepting fails", || async { server.log().contains("Too many open files").then_some(()) }).await;
    let mut served = 0;
    for _ in 0..50 {
        let values = payments.detokenize("pan", &tokens).await.unwrap();
        assert_eq!(values, [Ok(b"4111111111111111".to_vec())]);
        gateway.tokenize("pan", &[b"4111111111111111"]).await;
        served += 2;
    }
    assert!(descriptors(&server) <= most);
    limit(&server, Resource::Nofile, 4096);
    let came = waiting.join_all().await.into_iter().filter(|came| *came).count();
    assert!(came > 0, "those who waited come in");
    good_caller(&home, &server).await;
    assert_eq!(server.pid(), pid);
    assert_eq!(server.get("/readyz").1, "ready\n");
    server.stop();
    println!("{served} calls served with {most} descriptors; then {came} of {CONNECTIONS} who waited came in");
}

/// With so few that the store can't begin its next file either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_file_descriptors_ends_the_process_and_loses_nothing_s_15() {
    if !needs::met(&[]) {
        return;
    }
    let home = Home::init();
    let mut serve = home.serve_command();
    serve.env("CLOAKROOM_STORAGE__CACHE_BYTES", "8MiB");
    let server = Server::launch(&home, serve).unwrap();
    limit(&server, Resource::Nofile, 3);
    // Connections can't be made any more, so one that was made before asks.
    let few = few_connections(&home, &server).await;
    println!("with 3 descriptors: {few}");
    limit(&server, Resource::Nofile, 4096);
    let Run { promises, failures, .. } = run(&home, &server, plan(8, 200), || {}).await;
    let ended = failures.iter().all(|refusal| refusal.code == Code::Unavailable);
    assert!(ended, "{failures:?}");
    if failures.is_empty() {
        server.stop();
    } else {
        assert_eq!(server.wait().code(), Some(74));
    }
    println!("{}", kept(&home, home.serve_command(), &promises).await);
    let said = Server::launch(&home, few_files(&home.serve_command(), 16)).err().expect("it does not start");
    assert!(said.contains("Too many open files"), "{said}");
    good_caller(&home, &home.serve()).await;
}

/// The same with so many descriptors.
fn few_files(serve: &Command, files: u64) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={files}")).arg(serve.get_program()).args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

async fn few_connections(home: &Home, server: &Server) -> &'static str {
    match tokio::time::timeout(std::time::Duration::from_secs(1), server.connect(&home.identity("gateway"))).await {
        Ok(Ok(_)) => "a connection was made",
        Ok(Err(_)) => "a connection was refused",
        Err(_) => "a connection waited",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accept_that_fails_does_not_end_the_accepting_s_15() {
    if !needs::met(&["strace"]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    for error in ["EMFILE", "ENFILE", "ECONNABORTED", "ENOBUFS", "ENOMEM", "EPROTO"] {
        // The first five of each thread that accepts.
        let inject = format!("inject=accept4:error={error}:when=1..5");
        let strace = Attached::to(&server, &["-e", "trace=accept4", "-e", &inject]);
        good_caller(&home, &server).await;
        assert_eq!(server.get("/readyz").1, "ready\n", "{error}");
        drop(strace);
    }
    good_caller(&home, &server).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_file_descriptors_says_so_s_15() {
    if !needs::met(&["prlimit"]) {
        return;
    }
    let home = Home::init();
    // For the listeners, the store's first files, those that it opens later, and the network's threads.
    for files in [8, 10, 12, 14, 16, 18, 20, 22, 24] {
        let log = Server::launch(&home, few_files(&home.serve_command(), files)).err().expect("it does not start");
        let (_, said) = log.split_once("\ncloakroom: ").expect("it says why");
        assert!(said.contains("Too many open files") && !said.contains("another vault"), "{files}: {log}");
        assert!(log.contains("LimitNOFILE") && !log.contains("panicked"), "{files}: {log}");
    }
    let server = home.serve();
    good_caller(&home, &server).await;
    server.stop();
    crate::verify::assert_clean(&home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_threads_a_start_says_so_and_a_vault_that_runs_loses_nothing_s_15() {
    if !needs::met(&["setpriv", "prlimit", "chown"]) {
        return;
    }
    let (_folder, home) = home_of_nobody();
    let log = Server::launch(&home, as_nobody(&home.serve_command(), &["--nproc=1"])).err().expect("it does not start");
    assert!(log.contains("can't start the threads that the vault needs"), "{log}");
    let server = Server::launch(&home, as_nobody(&home.serve_command(), &[])).unwrap();
    // From now on no thread more.
    limit_threads(&server, "1:");
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..16 {
        asking.spawn(ask_without_threads(gateway.clone(), payments.clone()));
    }
    let mut tokens = Vec::new();
    let mut turned_away = 0;
    for (issued, shed) in asking.join_all().await {
        tokens.extend(issued);
        turned_away += shed;
    }
    assert!(!tokens.is_empty(), "those whose calls need no thread are served");
    let before = rustix::process::getrlimit(Resource::Nproc).current;
    limit_threads(&server, &before.map_or_else(|| "unlimited:".to_owned(), |before| format!("{before}:")));
    good_caller(&home, &server).await;
    server.stop();
    // What was acknowledged is there.
    crate::power::tool("chown", &["-R", "root", &home.path().display().to_string()]);
    let server = home.serve();
    let payments = server.client(&home.identity("payments")).await;
    for chunk in tokens.chunks(100) {
        let values = payments.detokenize("pan", chunk).await.unwrap();
        assert!(values.into_iter().all(|value| value == Ok(b"4111111111111111".to_vec())));
    }
    server.stop();
    crate::verify::assert_clean(&home);
    println!("no thread more: {} tokens were issued and are there, {turned_away} calls were turned away", tokens.len());
}

/// The tokens that one caller got, and how many of its calls were turned away.
async fn ask_without_threads(gateway: Client, payments: Client) -> (Vec<String>, usize) {
    let (mut tokens, mut shed) = (Vec::new(), 0);
    for _ in 0..25 {
        let items = vec![item(b"4111111111111111")];
        let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
        let told = match gateway.tokens().tokenize(request).await {
            Ok(answer) => {
                let issued = answer.into_inner().results.into_iter().map(|result| issued(result).unwrap());
                tokens.extend(issued.map(|issued| issued.token));
                payments.detokenize("pan", &tokens[tokens.len() - 1..]).await.err().map(|refusal| refusal.code)
            }
            Err(status) => Some(status.code()),
        };
        if let Some(code) = told {
            assert!(matches!(code, Code::Unavailable | Code::Internal | Code::ResourceExhausted), "{code:?}");
            shed += 1;
        }
    }
    (tokens, shed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: many calls"]
async fn without_memory_the_process_ends_and_loses_nothing_s_15() {
    if !needs::met(&[]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let used = address_space(&server);
    limit(&server, Resource::As, used + (16 << 20));
    let Run { promises, failures, .. } = run(&home, &server, plan(48, 8_000), || {}).await;
    let (calls, cut) = (promises.calls, failures.len());
    // Either it gets by with what it has, or the system's refusal ends it.
    limit_gone(&server);
    println!("16 MiB more address space: {calls} calls answered, {cut} cut off");
    server.kill();
    println!("{}", kept(&home, home.serve_command(), &promises).await);
}

/// As the user that it runs as: nobody else may.
fn limit_threads(server: &Server, most: &str) {
    let (pid, most) = (format!("--pid={}", server.pid()), format!("--nproc={most}"));
    let user = ["--reuid=nobody", "--regid=nogroup", "--clear-groups", "prlimit"];
    crate::power::tool("setpriv", &[&user[..], &[&pid, &most]].concat());
}

fn limit_gone(server: &Server) {
    // It may have ended.
    let _ = prlimit(Pid::from_raw(server.pid()), Resource::As, rustix::process::getrlimit(Resource::As));
}

fn address_space(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    size.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A control group for memory, gone when this is dropped.
struct Group(PathBuf);

impl Group {
    const ROOT: &'static str = "/sys/fs/cgroup/memory";

    fn new(bytes: u64) -> Self {
        let path = Path::new(Self::ROOT).join(format!("vault-test-{}-{bytes}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
        Self(path)
    }

    fn add(&self, server: &Server) {
        std::fs::write(self.0.join("cgroup.procs"), server.pid().to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: many calls"]
async fn the_systems_killer_for_lack_of_memory_costs_nothing_that_was_acknowledged_s_15() {
    let limit = format!("{}/memory.limit_in_bytes", Group::ROOT);
    if !Path::new(&limit).exists() {
        println!("LEFT OUT: this test needs a control group of version 1 for memory");
        return;
    }
    let home = Home::init();
    let mut serve = home.serve_command();
    serve.env("CLOAKROOM_STORAGE__CACHE_BYTES", "512MiB");
    let server = Server::launch(&home, serve).unwrap();
    let group = Group::new(24 << 20);
    group.add(&server);
    let mut promises = Promises::default();
    let mut cut = 0;
    let ended = run(&home, &server, plan(48, 30_000), || {}).await;
    promises.add(ended.promises);
    cut += ended.failures.len();
    assert!(cut > 0, "{} MiB are too little for all that", 24);
    let status = server.wait();
    assert_eq!(status.signal(), Some(9), "{status}");
    println!("{} calls answered until the system killed it, {cut} cut off", promises.calls);
    println!("{}", kept(&home, home.serve_command(), &promises).await);
    drop(group);
}
