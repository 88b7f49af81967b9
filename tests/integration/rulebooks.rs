//! Z-09: a rulebook that can't be read whole is no rulebook. The vault does not start, says what is wrong and where, and has
//! changed nothing; and no rules at all allow nothing at all.

use crate::harness::{Home, Server, program, texts};
use cloakroom::proto::v1;
use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tonic::Code;

/// Puts something that is no policy file there.
type Spoil = fn(&Path);

const GOOD: &str = "@id(\"extra\")\npermit (principal, action == Cloakroom::Action::\"inspect\", resource);\n";

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).unwrap();
}

/// Each with what the refusal must say beside the file's name.
const SPOILED: [(&str, &str, Spoil); 15] = [
    ("syntax", "zz.cedar:2:", |path| write(path, GOOD.replace("permit (", "permit (("))),
    ("an unknown action", "detokenise", |path| write(path, GOOD.replace("inspect", "detokenise"))),
    ("an unknown effect", "zz.cedar:2:", |path| write(path, GOOD.replace("permit", "allow"))),
    ("an unknown scope", "unknown scope", |path| {
        write(path, GOOD.replace("resource)", "resource == Cloakroom::Scope::\"pam\")"));
    }),
    ("no id", "no @id", |path| write(path, GOOD.replace("@id(\"extra\")", ""))),
    ("an id twice", "is taken", |path| write(path, format!("{GOOD}{GOOD}"))),
    ("empty", "is empty", |path| write(path, "")),
    ("white space", "is empty", |path| write(path, "  \n\t\n")),
    ("a directory", "is not a regular file", |path| std::fs::create_dir(path).unwrap()),
    // It takes no room on disk, and is not read to its end.
    ("a gigabyte", "larger than 1 MiB", |path| File::create(path).unwrap().set_len(1 << 30).unwrap()),
    ("a link to a device", "is not a regular file", |path| symlink("/dev/zero", path).unwrap()),
    ("a link to nothing", "can't be read", |path| symlink("/nonexistent/policy", path).unwrap()),
    ("a link to itself", "can't be read", |path| symlink(path, path).unwrap()),
    ("not UTF-8", "is not UTF-8", |path| write(path, b"// caf\xe9\n")),
    ("zeros", "zz.cedar", |path| write(path, [0; 4096])),
];

/// Why it did not start.
fn refusal(home: &Home) -> String {
    Server::launch(home, home.serve_command()).err().unwrap_or_else(|| panic!("it started"))
}

fn clear(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        std::fs::remove_dir(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
}

/// How many events the log has, and that a call is served as before.
async fn is_open(home: &Home) -> usize {
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let payments = server.client(&home.identity("payments")).await;
    assert!(payments.detokenize("pan", &tokens).await.unwrap()[0].is_ok());
    let events = server.client(&home.identity("auditor")).await.events(v1::AuditFilter::default()).await.len();
    server.stop();
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_policy_file_refuses_the_start_and_changes_nothing_z_09() {
    let home = Home::init();
    let before = is_open(&home).await;
    let file = home.file("policies/zz.cedar");
    for (what, says, spoil) in SPOILED {
        spoil(&file);
        let refusal = refusal(&home);
        assert!(refusal.contains("zz.cedar") && refusal.contains(says), "{what}: {refusal}");
        // `policy check` says the same, before anybody starts anything.
        let output = program().args(["policy", "check", "--config"]).arg(home.file("cloakroom.toml")).output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && told.contains("zz.cedar") && told.contains(says), "{what}: {told}");
        clear(&file);
    }
    // Also where the whole directory is no directory.
    let (policies, away) = (home.file("policies"), home.file("away"));
    std::fs::rename(&policies, &away).unwrap();
    for put in [|_: &Path| {}, |path: &Path| write(path, GOOD), |path: &Path| symlink("/nonexistent", path).unwrap()] {
        put(&policies);
        assert!(refusal(&home).contains("policies"), "{}", refusal(&home));
        let _ = std::fs::remove_file(&policies);
    }
    std::fs::rename(&away, &policies).unwrap();
    // None of these starts got as far as the log: of each orderly run there are six events, of the others none.
    let after = is_open(&home).await;
    let last = is_open(&home).await;
    assert_eq!(after - before, last - after);
    // A good file in the same place is read.
    write(&file, GOOD);
    is_open(&home).await;
    println!("Z-09: {} spoiled files and 3 directories refused", SPOILED.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rules_allow_nothing_and_rules_that_change_under_a_running_vault_change_nothing_z_09() {
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let tokens = texts(&gateway.tokenize("pan", &[b"4111111111111111"]).await);
    let payments = server.client(&home.identity("payments")).await;
    // Whatever happens to the files, what was read at the start is in force until the end.
    let names: Vec<_> = std::fs::read_dir(home.file("policies")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let texts_of: Vec<Vec<u8>> = names.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let everything = "@id(\"all\")\npermit (principal, action, resource);\n";
    for spoiled in [&b"permit ("[..], b"", b"\xff", everything.as_bytes()] {
        for path in &names {
            write(path, spoiled);
        }
        assert!(payments.detokenize("pan", &tokens).await.unwrap()[0].is_ok());
        assert_eq!(gateway.detokenize("pan", &tokens).await.unwrap_err().code, Code::PermissionDenied);
    }
    // A link that is turned to another file is followed at the start and not after.
    let linked = home.file("policies/linked.cedar");
    symlink(home.file("elsewhere"), &linked).unwrap();
    home.write("elsewhere", everything);
    assert_eq!(gateway.detokenize("pan", &tokens).await.unwrap_err().code, Code::PermissionDenied);
    server.stop();
    std::fs::remove_file(&linked).unwrap();
    for path in &names {
        std::fs::remove_file(path).unwrap();
    }

    // An empty directory, and one whose only file has a comment.
    for text in [None, Some("// Nobody may do anything yet.\n")] {
        if let Some(text) = text {
            home.write("policies/none.cedar", text);
        }
        let server = home.serve();
        for name in ["gateway", "payments", "auditor", "operator"] {
            let client = server.client(&home.identity(name)).await;
            assert_eq!(client.detokenize("pan", &tokens).await.unwrap_err().code, Code::PermissionDenied, "{name}");
            let items = vec![crate::harness::item(b"4111")];
            let request = v1::TokenizeRequest { scope: "pan".to_owned(), items, ..Default::default() };
            assert_eq!(client.tokens().tokenize(request).await.map(drop).unwrap_err().code(), Code::PermissionDenied);
            let question = v1::QueryEventsRequest::default();
            assert_eq!(
                client.audit().query_events(question).await.map(drop).unwrap_err().code(),
                Code::PermissionDenied
            );
        }
        assert!(server.log().contains("nothing") || server.log().contains("no polic"), "{}", server.log());
        server.stop();
    }
    clear(&home.file("policies/none.cedar"));
    // A policy that may not be read is not left out.
    for (path, text) in names.iter().zip(texts_of) {
        write(path, text);
    }
    if !rustix::process::geteuid().is_root() {
        std::fs::set_permissions(&names[0], std::fs::Permissions::from_mode(0o000)).unwrap();
        assert!(refusal(&home).contains("can't be read"));
        std::fs::set_permissions(&names[0], std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    is_open(&home).await;
}
