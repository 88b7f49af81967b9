//! Files of expected decisions: what they may say, and that they are held against the rulebook.

use super::*;

fn parse(text: &str) -> Result<Vec<Expectation>, Vec<String>> {
    Expectation::parse("t.toml", text)
        .map_err(|mistakes| mistakes.iter().map(|m| format!("{}: {} | {}", m.place, m.what, m.hint)).collect())
}

const CALL: &str = "[[expect]]\ncaller = \"spiffe://a.example/payments\"\naction = \"detokenize\"\nscope = \"pan\"\n";

#[test]
fn a_whole_expectation_is_read() {
    let text = format!(
        "# Why.\n{CALL}name = \"n\"\npurpose = \"refund\"\nreveal = \"masked\"\nrequested = 0x10\nnow = 2027-01-01T12:00:00Z\n\
         decision = \"allow\"\npolicies = [\"b\", \"a\"]\n"
    );
    let found = parse(&text).unwrap();
    let [expectation] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(expectation.place.to_string(), "t.toml:2:1");
    assert_eq!(expectation.name.as_deref(), Some("n"));
    assert_eq!(expectation.call.purpose, "refund");
    assert_eq!(expectation.call.reveal, Reveal::Masked);
    assert_eq!(expectation.call.requested, 16);
    assert_eq!(expectation.call.now, Timestamp::from_millis(1_798_804_800_000));
    assert!(expectation.allow);
    assert_eq!(expectation.policies.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]), "sorted");
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let text = format!(
        "{CALL}desicion = \"allow\"\nrequested = \"2\"\n\n{CALL}decision = \"alow\"\nnow = \"yesterday\"\npolicies = [1]\n\n\
         [[expect]]\ncaller = \"x\"\naction = \"detokenise\"\ndecision = \"deny\"\n\n[expected]\n"
    );
    assert_eq!(
        parse(&text).unwrap_err(),
        [
            "t.toml:1:1: `decision` is missing | write `decision = \"…\"`",
            "t.toml:5:1: unknown key `desicion` | did you mean `decision`?",
            "t.toml:6:1: requested: is not a whole number | write a whole number",
            "t.toml:12:1: decision: `alow` is neither `allow` nor `deny` | did you mean `allow`?",
            "t.toml:13:1: now: is not a moment like 2027-01-01T12:00:00Z | write a moment like 2027-01-01T12:00:00Z",
            "t.toml:14:1: policies: is not a list of texts in quotes | write a list of texts in quotes",
            "t.toml:17:1: caller: the id does not begin with \"spiffe://\" in lower case | write it like `spiffe://example.org/payments`",
            "t.toml:18:1: action: unknown action `detokenise` | did you mean `detokenize`?",
            "t.toml:21:2: unknown key `expected` | did you mean `expect`?",
        ]
    );
}

#[test]
fn a_number_is_whole_and_one_that_fits() {
    let given = |number: &str| parse(&format!("{CALL}decision = \"deny\"\nrequested = {number}\n"));
    assert_eq!(given("2").unwrap()[0].call.requested, 2);
    for number in ["-1", "18446744073709551616", "1.5", "true"] {
        let mistake = "t.toml:6:1: requested: is not a whole number | write a whole number";
        assert_eq!(given(number).unwrap_err(), [mistake], "{number}");
    }
}

#[test]
fn each_value_has_its_kind() {
    let found = parse(&format!("{CALL}decision = \"deny\"\npurpose = 1\nnow = 1\n")).unwrap_err();
    assert_eq!(
        found,
        [
            "t.toml:6:1: purpose: is not a text in quotes | write a text in quotes",
            "t.toml:7:1: now: is not a moment like 2027-01-01T12:00:00Z | write a moment like 2027-01-01T12:00:00Z",
        ]
    );
    let found = parse("expect = [1]").unwrap_err();
    assert!(found.len() == 1 && found[0].ends_with(": is not a table | write [[expect]]"), "{found:?}");
}

#[test]
fn a_file_that_says_nothing_does_not_pass() {
    for text in ["", "# Later.", "expect = []"] {
        let found = parse(text).unwrap_err();
        assert!(found.len() == 1 && found[0].starts_with("t.toml: expects nothing"), "{found:?}");
    }
    assert!(parse("expect = 1").unwrap_err()[0].starts_with("t.toml:1:1: expect: is not a list"));
    assert!(parse("[[expect]\n").unwrap_err()[0].starts_with("t.toml:1:"));
}

fn meet(policies: &str, rest: &str) -> Result<bool, String> {
    let expectation = parse(&format!("{CALL}{rest}")).unwrap().remove(0);
    let seen = rulebook(policies).meet(&expectation).map_err(|mistake| mistake.to_string())?;
    Ok(expectation.is_met_by(&seen))
}

#[test]
fn decisions_and_policies_are_compared() {
    let purpose = "purpose = \"refund\"\n";
    assert_eq!(meet(READ_PAN, &format!("{purpose}decision = \"allow\"")), Ok(true));
    assert_eq!(meet(READ_PAN, &format!("{purpose}decision = \"deny\"")), Ok(false));
    assert_eq!(meet(READ_PAN, "decision = \"deny\"\npolicies = []"), Ok(true));
    assert_eq!(meet(READ_PAN, &format!("{purpose}decision = \"allow\"\npolicies = [\"read-pan\"]")), Ok(true));
    assert_eq!(meet(READ_PAN, &format!("{purpose}decision = \"allow\"\npolicies = []")), Ok(false));
    let unknown = meet(READ_PAN, "decision = \"deny\"\npolicies = [\"read-pam\"]").unwrap_err();
    assert_eq!(unknown, "t.toml:1:1: policies: unknown policy `read-pam`\n    did you mean `read-pan`?");
}

#[test]
fn a_test_does_not_depend_on_the_day_it_runs() {
    let until = "@id(\"until\") permit (principal, action, resource) when { context.now < datetime(\"2027-01-01\") };";
    let missing = meet(until, "decision = \"allow\"").unwrap_err();
    assert!(missing.starts_with("t.toml:1:1: a policy about this call reads context.now"), "{missing}");
    assert_eq!(meet(until, "now = \"2026-12-31T23:59:59Z\"\ndecision = \"allow\""), Ok(true));
    assert_eq!(meet(until, "now = \"2027-01-01T00:00:00Z\"\ndecision = \"deny\""), Ok(true));
    // Policies for other calls may read what they like.
    let other = until.replace("resource)", "resource == Cloakroom::Vault::\"vault\")");
    assert_eq!(meet(&format!("{READ_PAN}{other}"), "purpose = \"x\"\ndecision = \"allow\""), Ok(true));
}

#[test]
fn the_samples_test_is_met_by_the_sample_policies() {
    let (file, text) = sample::TESTS;
    let expectations = Expectation::parse(file, text).unwrap();
    let id = |name: &str| format!("spiffe://dev.cloakroom.internal/{name}");
    let roles = ["gateway", "payments", "auditor", "operator"].map(|name| (name.to_owned(), vec![id(name)])).into();
    let domain = "dev.cloakroom.internal".to_owned();
    let rulebook = Rulebook::load(scopes(&["pan", "ssn", "email"]), &roles, sources(sample::FILES), &[domain]).unwrap();
    for expectation in &expectations {
        let seen = rulebook.meet(expectation).unwrap();
        assert!(expectation.is_met_by(&seen), "{:?}: {seen:?}", expectation.name);
    }
    assert!(expectations.iter().any(|e| e.allow) && expectations.iter().any(|e| !e.allow));
}
