//! From the configuration to a rulebook: scopes, roles and policies together, or every mistake in them.

use super::{Error, is_passing};
use crate::clock::in_one_unit;
use crate::config::{self, Config};
use crate::ledger;
use crate::policy::{self, Mistake, Place, Policy, Rulebook, RulebookErrors};
use crate::scope::{self, MaskSettings, Scopes, Settings};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Loads and checks the rulebook that `config` describes.
///
/// # Errors
/// With every mistake in scopes, roles and policies, each with file and line.
pub fn load(config: &Config) -> Result<Rulebook, Error> {
    let (scopes, mut mistakes) = scopes(config);
    let roles = config.roles.iter().map(|(role, members)| (role.clone(), members.value.clone())).collect();
    let domains: Vec<String> = config.trust_domains.iter().map(|domain| domain.name.clone()).collect();
    let found = policy::scan_directory(&config.policies.directory);
    if let Some(error) = found.unreadable.filter(is_passing) {
        return Err(Error::Io { what: "can't read the policies: look at the limits (LimitNOFILE)", error });
    }
    mistakes.extend(found.mistakes);
    let rulebook = Rulebook::load(scopes, &roles, found.sources, &domains);
    mistakes.extend(rulebook.as_ref().err().into_iter().flat_map(|errors| errors.mistakes().iter().cloned()));
    for mistake in &mut mistakes {
        mistake.place = locate(config, mistake.place.clone());
    }
    RulebookErrors::check(mistakes)?;
    Ok(rulebook?)
}

/// Puts a setting of scopes or roles at its line of the configuration.
pub fn locate(config: &Config, place: Place) -> Place {
    place.in_file(&config.file.display().to_string(), |key| {
        line(config, key).and_then(|line| usize::try_from(line).ok())
    })
}

/// The scopes, and every mistake in them. If there are mistakes, the scopes are those that are needed to find mistakes in
/// policies: all whose names are good, with rules that do not matter.
fn scopes(config: &Config) -> (Scopes, Vec<Mistake>) {
    let settings: BTreeMap<String, Settings> =
        config.scopes.iter().map(|(name, scope)| (name.clone(), settings(scope))).collect();
    let mistakes = match Scopes::load(&settings) {
        Ok(scopes) => return (scopes, Vec::new()),
        Err(mistakes) => mistakes,
    };
    let said = |mistake: scope::Mistake| Mistake {
        place: Place::Setting(mistake.key),
        what: mistake.what,
        hint: mistake.hint,
    };
    let mut good = BTreeMap::new();
    for name in settings.into_keys() {
        good.insert(name.clone(), Settings { prefix: Some("x".into()), ..Settings::default() });
        if Scopes::load(&good).is_err() {
            good.remove(&name);
        }
    }
    (Scopes::load(&good).unwrap_or_default(), mistakes.into_iter().map(said).collect())
}

fn settings(scope: &config::Scope) -> Settings {
    Settings {
        format: Some(scope.format.value.clone()),
        prefix: scope.prefix.as_ref().map(|prefix| prefix.value.clone()),
        ttl: Some(in_one_unit(scope.ttl.value)),
        max_ttl: Some(in_one_unit(scope.max_ttl.value)),
        max_value_bytes: Some(scope.max_value_bytes.value as u64),
        mask: Some(MaskSettings {
            keep_first: u32::try_from(scope.mask.value.keep_first).unwrap_or(u32::MAX),
            keep_last: u32::try_from(scope.mask.value.keep_last).unwrap_or(u32::MAX),
        }),
        purpose_required: Some(scope.purpose_required.value),
    }
}

/// The line of `scopes.NAME.SETTING`, of the scope's header, or of `roles.NAME`.
fn line(config: &Config, key: &str) -> Option<u32> {
    if let Some(role) = key.strip_prefix("roles.") {
        let is_it = |name: &str| role.trim_start_matches('"').starts_with(&name.escape_default().to_string());
        let named = config.roles.iter().filter(|(name, _)| is_it(name));
        return named.max_by_key(|(name, _)| name.len()).map(|(_, members)| members.line);
    }
    let rest =
        |name: &str| key.strip_prefix(&scope::key_of(name)).filter(|rest| rest.is_empty() || rest.starts_with('.'));
    let (scope, setting) = config.scopes.iter().find_map(|(name, scope)| Some((scope, rest(name)?)))?;
    let line = match setting.trim_start_matches('.') {
        "format" => scope.format.line,
        "prefix" => scope.prefix.as_ref().map_or(scope.line, |prefix| prefix.line),
        "ttl" => scope.ttl.line,
        "max_ttl" => scope.max_ttl.line,
        "max_value_bytes" => scope.max_value_bytes.line,
        "purpose_required" => scope.purpose_required.line,
        setting if setting.starts_with("mask") => scope.mask.line,
        _ => scope.line,
    };
    // What is not written stands nowhere; the table that lacks it does.
    Some(if line == 0 { scope.line } else { line })
}

/// What the ledger is told of the rulebook.
pub(super) struct RulebookView {
    pub generation: ledger::Generation,
    pub digest: ledger::RulebookDigest,
}

impl RulebookView {
    pub fn of(policy: &Arc<Policy>) -> Self {
        let (counted, named) = (Arc::clone(policy), Arc::clone(policy));
        Self { generation: Box::new(move || counted.generation()), digest: Box::new(move || named.rulebook().digest()) }
    }

    /// While a vault is made there is none yet.
    pub fn none() -> Self {
        Self { generation: Box::new(|| 0), digest: Box::new(|| [0; 32]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[server]\nlisten = \"127.0.0.1:0\"\ncertificate = \"c\"\nprivate_key = \"k\"\n\
        [operations]\nlisten = \"127.0.0.1:0\"\n[[trust_domains]]\nname = \"a.example\"\nbundle = \"b\"\n\
        [root_key]\nprovider = \"file\"\npath = \"r\"\n[storage]\nengine = \"rocksdb\"\npath = \"d\"\n\
        [audit]\ncheckpoints = \"c\"\n[policies]\ndirectory = \"policies\"\n";

    #[test]
    fn mistakes_in_scopes_roles_and_policies_come_together_with_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        let policy = "@id(\"x\")\npermit (principal, action, resource == Cloakroom::Scope::\"pam\");\n";
        std::fs::write(folder.path().join("policies/a.cedar"), policy).unwrap();
        std::fs::write(folder.path().join("policies/b.cedar"), b"\xff").unwrap();
        // Line 19 is the first after the head.
        let tables = "[roles]\npay = []\npayments = [\"spiffe://b.example/x\"]\n[scopes.pan]\nprefix = \"P\"\n\
                      [scopes.\"*/ssn\"]\nprefix = \"ssn\"\nttl = \"500d\"\n";
        let file = folder.path().join("cloakroom.toml");
        let config = Config::parse(&file, &format!("{HEAD}{tables}"), []).unwrap();
        let Err(Error::Rulebook(errors)) = load(&config) else { panic!("it has mistakes") };
        let folder = format!("{}/", folder.path().display());
        let found: Vec<_> =
            errors.mistakes().iter().map(|m| format!("{}: {}", m.place, m.what).replace(&folder, "")).collect();
        let expected = [
            "cloakroom.toml:22: roles.payments[0]: trust domain `b.example` is not configured",
            "cloakroom.toml:24: scopes.pan.prefix: is not a prefix",
            "cloakroom.toml:27: scopes.\"*/ssn\".ttl: the default lifetime of 1year 4months 12days 20h 38m 24s is above the \
             ceiling of 1year 1month 4days 8h 9m 36s",
            "policies/a.cedar:2:40: unknown scope `pam`",
            "policies/b.cedar:1:1: byte 0xff is not UTF-8",
        ];
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            // How a duration is spelled is not the point.
            assert_eq!(found.split(" of ").next(), expected.split(" of ").next());
        }
    }
}
