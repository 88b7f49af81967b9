//! Settings and what is made of answers.

use crate::client::{Error, Profile, Settings};
use std::path::Path;

fn profile(more: &str) -> Profile {
    let text = format!("address = \"a:1\"\nca = \"ca.pem\"\ncertificate = \"c.pem\"\nprivate_key = \"c.key\"\n{more}");
    Profile::parse(Path::new("p.toml"), &text).unwrap()
}

#[test]
fn a_client_that_would_believe_any_workload_of_the_authority_is_refused_t_13() {
    let refused = Settings::new(profile("server_name = \"localhost\"\n"));
    assert!(matches!(refused, Err(Error::Profile { problem }) if problem.contains("server_id")));
    assert!(Settings::new(profile("server_id = \"spiffe://a/vault\"\n")).is_ok());
}
