//! The auditor's report as a real browser shows it.

use crate::harness::{Home, Server, texts};
use crate::needs;
use cloakroom::proto::v1;
use std::path::Path;
use std::process::{Command, Stdio};

const BROWSER: &str = "chromium";

/// What a browser did with a page.
struct Shown {
    /// The document after it was laid out.
    document: String,
    /// What it wrote to its console: every violation of the page's policy, and every error.
    complaints: Vec<String>,
}

/// Opens `page` without a window and with a profile of its own.
fn show(page: &Path, profile: &Path) -> Shown {
    let output = Command::new(BROWSER)
        // Its own sandbox needs a user who is not root; the page is ours and may load nothing.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"])
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the browser failed: {said}");
    let complaints = said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    Shown { document: String::from_utf8_lossy(&output.stdout).into_owned(), complaints }
}

fn report(home: &Home, server: &Server, shape: &str, file: &Path) {
    let mut command = home.cli(server, "auditor", &["audit", "report", "--output", shape]);
    let output = command.arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: a browser"]
async fn a_browser_shows_the_report_and_has_nothing_to_complain_about() {
    if !needs::met(&[BROWSER]) {
        return;
    }
    let home = Home::init();
    let server = home.serve();
    let gateway = server.client(&home.identity("gateway")).await;
    let payments = server.client(&home.identity("payments")).await;
    let issued = gateway.tokenize("pan", &[b"4111111111111111".as_slice(); 7]).await;
    payments.detokenize("pan", &texts(&issued)).await.unwrap();
    let hostile = "</style><script>document.title='x'</script><img src=x onerror=alert(1)>".to_owned();
    let request = v1::DetokenizeRequest { scope: hostile, tokens: texts(&issued), ..Default::default() };
    assert!(gateway.tokens().detokenize(request).await.is_err());

    let page = home.file("report.html");
    report(&home, &server, "html", &page);
    let shown = show(&page, &home.file("browser"));
    assert_eq!(shown.complaints, Vec::<String>::new());
    for part in ["<h1>Who saw what</h1>", "<dd>7</dd>", "7 in full, 0 masked", "</html>"] {
        assert!(shown.document.contains(part), "{part:?} is not in\n{}", shown.document);
    }
    assert!(!shown.document.contains("alert(1)") && !shown.document.contains("<title>x"));

    // That a violation would have been seen: the same page with another style than its policy names.
    let spoilt = std::fs::read_to_string(&page).unwrap().replace("<style>", "<style>i{color:red}");
    let page = home.file("spoilt.html");
    std::fs::write(&page, spoilt).unwrap();
    let complaints = show(&page, &home.file("browser")).complaints;
    assert!(complaints.iter().any(|line| line.contains("Content Security Policy")), "{complaints:?}");
}
