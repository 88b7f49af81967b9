//! From the configuration to a rulebook: scopes, roles and policies together, or every mistake in them.

use super::Error;
use crate::config::{self, Config, Mistake, Place};
use crate::policy::{self, Rulebook};
use crate::scope::{self, MaskSettings, Scopes, Settings};
use std::collections::BTreeMap;

/// Loads and checks the rulebook that `config` describes.
///
/// # Errors
/// With every mistake in scopes, or else in roles and policies, each with file and line.
pub fn load(config: &Config) -> Result<Rulebook, Error> {
    let settings: BTreeMap<String, Settings> =
        config.scopes.iter().map(|(name, scope)| (name.clone(), settings(scope))).collect();
    let scopes = Scopes::load(&settings).map_err(|mistakes| place(config, mistakes))?;
    let roles = config.roles.iter().map(|(role, members)| (role.clone(), members.value.clone())).collect();
    let domains: Vec<String> = config.trust_domains.iter().map(|domain| domain.name.clone()).collect();
    let policies = policy::read_directory(&config.policies.directory)?;
    Ok(Rulebook::load(scopes, &roles, policies, &domains)?)
}

fn settings(scope: &config::Scope) -> Settings {
    Settings {
        format: Some(scope.format.value.clone()),
        prefix: scope.prefix.as_ref().map(|prefix| prefix.value.clone()),
        ttl: Some(humantime::format_duration(scope.ttl.value).to_string()),
        max_ttl: Some(humantime::format_duration(scope.max_ttl.value).to_string()),
        max_value_bytes: Some(scope.max_value_bytes.value as u64),
        mask: Some(MaskSettings {
            keep_first: u32::try_from(scope.mask.value.keep_first).unwrap_or(u32::MAX),
            keep_last: u32::try_from(scope.mask.value.keep_last).unwrap_or(u32::MAX),
        }),
        purpose_required: Some(scope.purpose_required.value),
    }
}

/// Puts each mistake at its line of the file.
fn place(config: &Config, mistakes: Vec<scope::Mistake>) -> Error {
    let located = |mistake: scope::Mistake| Mistake {
        place: Place::Line(config.file.clone(), line(config, &mistake.key)),
        problem: format!("{}; {}", mistake.what, mistake.hint),
        key: mistake.key,
    };
    Error::Config(config::Error::Mistakes(mistakes.into_iter().map(located).collect()))
}

/// The line of `scopes.NAME.SETTING`, or of the scope's header.
fn line(config: &Config, key: &str) -> u32 {
    let key = key.strip_prefix("scopes.").unwrap_or(key);
    let named = config.scopes.iter().filter(|(name, _)| key.starts_with(name.as_str()));
    let Some((name, scope)) = named.max_by_key(|(name, _)| name.len()) else { return 1 };
    match key[name.len()..].trim_start_matches('.') {
        "format" => scope.format.line,
        "prefix" => scope.prefix.as_ref().map_or(scope.line, |prefix| prefix.line),
        "ttl" => scope.ttl.line,
        "max_ttl" => scope.max_ttl.line,
        "max_value_bytes" => scope.max_value_bytes.line,
        "purpose_required" => scope.purpose_required.line,
        setting if setting.starts_with("mask") => scope.mask.line,
        _ => scope.line,
    }
}
