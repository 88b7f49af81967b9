//! A hostile diet: what a client may send that no decent client would. `tests/foreign/diet.py` sends it, with a wire format of
//! its own; here is the vault that has to eat it, other callers who must not notice, and what must hold of it afterwards.

use crate::harness::{Home, Server};
use crate::invariants::Invariants;
use crate::needles::{Found, Needles};
use crate::promises::{Dice, Plan, Promises, Stamp, run};
use std::path::Path;
use std::process::{Command, Stdio};

/// Messages of each rpc.
const QUICK: u32 = 25;
const LONG: u32 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn anomalies_of_the_wire_format_are_refused_or_read_as_documented_i_02() {
    eat(QUICK).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: three minutes of messages that nobody sends"]
async fn many_anomalies_of_the_wire_format_are_refused_or_read_as_documented_i_02() {
    eat(LONG).await;
}

async fn eat(examples: u32) {
    let home = Home::init();
    for role in ["gateway", "payments", "auditor", "operator"] {
        let member = format!("{role} = [\"spiffe://dev.cloakroom.internal/{role}\"");
        home.replace("cloakroom.toml", &member, &format!("{member}, \"spiffe://dev.cloakroom.internal/{role}/*\""));
    }
    let server = home.serve();
    let seed = Dice::seed();
    let mut promises = good_callers(&home, &server, seed).await;
    // Outside of the home, where nothing of it may stand.
    let secrets = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, address, to) = (home.path().to_owned(), server.address.to_string(), secrets.path().to_owned());
    tokio::task::spawn_blocking(move || feed(&path, &address, &to, seed, examples)).await.unwrap();
    promises.add(good_callers(&home, &server, seed ^ 1).await);
    server.stop();

    let (server, findings) =
        Invariants::new().check(&home, home.serve_command(), &promises, Stamp::MAX).await.expect("it starts again");
    assert!(findings.broken.is_empty(), "{:#?}", findings.broken);
    assert!(findings.values > 0, "nothing was checked");
    assert!(!server.log().contains("a thread panicked"), "{}", server.log());
    server.stop();
    let secrets = std::fs::read_to_string(secrets.path()).unwrap();
    let found = secrets_in(&home, secrets.lines());
    assert!(found.names.is_empty(), "{found:?}");
    // And had one been there, it would have been found.
    home.write("forgotten.log", secrets.lines().last().unwrap());
    assert!(!secrets_in(&home, secrets.lines()).names.is_empty());
}

async fn good_callers(home: &Home, server: &Server, seed: u64) -> Promises {
    let plan = Plan { seed, callers: 8, calls: 200, stamp: Box::new(|| 0) };
    let done = run(home, server, plan, || {}).await;
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    done.promises
}

fn feed(home: &Path, address: &str, secrets: &Path, seed: u64, examples: u32) {
    let done = foreign("diet.py")
        .args([home.as_os_str(), address.as_ref(), secrets.as_os_str()])
        .env("SEED", seed.to_string())
        .env("EXAMPLES", std::env::var("EXAMPLES").unwrap_or_else(|_| examples.to_string()))
        .output()
        .expect("tests/foreign/run can't be started");
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "tests/foreign/diet.py failed: its output is above");
    let last = said.lines().last().unwrap_or_default();
    let passed = last.strip_suffix(" passed, 0 failed").and_then(|passed| passed.parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed > 40), "tests/foreign/diet.py checked nothing: {last}");
}

/// One program of `tests/foreign`.
pub fn foreign(name: &str) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/run");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory");
    let mut command = Command::new(program);
    command.env("CARGO_TARGET_DIR", target).args(["--script", name]).stdin(Stdio::null());
    command
}

/// Which of these lie in a file of the home.
fn secrets_in<'s>(home: &Home, secrets: impl Iterator<Item = &'s str>) -> Found {
    let mut needles = Needles::default();
    for (number, secret) in secrets.enumerate() {
        needles.add(&format!("secret {number}"), secret.as_bytes());
    }
    let (mut found, mut folders) = (Found::default(), vec![home.path().to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                needles.find(&bytes, &path.display().to_string(), &mut found);
            }
        }
    }
    found
}
