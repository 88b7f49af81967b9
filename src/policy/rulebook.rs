//! Scopes, roles and policies together: one version, one digest, whole or not at all.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::action::Verb;
use super::check::{self, Checked};
use super::mistake::{RulebookErrors, Warning};
use super::roles::Roles;
use super::schema::Kin;
use super::slice::{Index, Verdict};
use super::statement::Reads;
use super::{Context, Decision, PolicySource, Refusal, Resource};
use crate::caller::SpiffeId;
use crate::scope::Scopes;

/// What the digest is of, so that it can't be taken for a digest of anything else.
const DIGEST_DOMAIN: &[u8] = b"cloakroom rulebook v1";

/// Scopes, roles and policies that fit together.
pub struct Rulebook {
    pub(super) scopes: Scopes,
    pub(super) roles: Roles,
    pub(super) index: Index,
    /// Whose certificates are believed, sorted.
    pub(super) trust_domains: Vec<String>,
    warnings: Vec<Warning>,
    digest: [u8; 32],
}

impl Rulebook {
    /// Reads and checks everything. `trust_domains` are those whose certificates the listener accepts.
    pub fn load(
        scopes: Scopes,
        roles: &BTreeMap<String, Vec<String>>,
        mut policies: Vec<PolicySource>,
        trust_domains: &[String],
    ) -> Result<Self, RulebookErrors> {
        policies.sort_by(|one, other| one.file.cmp(&other.file));
        let (roles, mut mistakes) = Roles::load(roles, trust_domains);
        let Checked { policies: checked, warnings, mistakes: found, .. } =
            check::policies(&policies, &scopes, &roles, trust_domains);
        mistakes.extend(found);
        RulebookErrors::check(mistakes)?;
        let digest = digest(&scopes, &roles, &policies);
        let mut trust_domains = trust_domains.to_vec();
        trust_domains.sort();
        Ok(Self { scopes, roles, index: Index::new(checked), trust_domains, warnings, digest })
    }

    /// The scopes.
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// SHA-256 over scopes, roles and the policies' texts in the order of their files' names. Two rulebooks that differ
    /// in any rule differ in it; every audit event carries it.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// What an operator should hear of.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What the answers to any question about `verb` can depend on.
    pub(super) fn reads(&self, verb: Verb) -> Reads {
        self.index.reads(verb)
    }

    /// Decides, and says whether the answer may be kept for the same question. One evaluation, or none where the scope
    /// is unknown or the action is not one for this kind of resource.
    pub(super) fn decide(
        &self,
        caller: &SpiffeId,
        verb: Verb,
        resource: Resource<'_>,
        context: &Context<'_>,
    ) -> (Decision, bool) {
        let refused = |refusal| (Decision::refused(refusal, self.digest), false);
        let (scope, path) = match resource {
            Resource::Scope(path) if !verb.concerns_vault() => match self.scopes.resolve(path) {
                Some(scope) => (Some(scope), Some(path.clone())),
                None => return refused(Refusal::UnknownScope),
            },
            Resource::Vault if verb.concerns_vault() => (None, None),
            _ => return refused(Refusal::NotAllowed),
        };
        let (who, on) = (Kin::of_caller(caller, &self.roles), Kin::of_resource(resource));
        let slice = self.index.slice(&who, verb, &on);
        let Verdict { refusal, policies } = slice.decide(who, verb, on, context);
        let decision = Decision { scope, path, refusal, policies: policies.into(), rulebook: self.digest };
        (decision, !slice.reads.changing)
    }

    /// What Cedar says of the question with every policy before it, for tests that compare.
    #[cfg(test)]
    pub(super) fn decide_plainly(
        &self,
        caller: &SpiffeId,
        verb: Verb,
        resource: Resource<'_>,
        context: &Context<'_>,
    ) -> Verdict {
        let (who, on) = (Kin::of_caller(caller, &self.roles), Kin::of_resource(resource));
        Verdict::from(&super::slice::ask(&self.index.everything(), who, verb, on, context).unwrap())
    }
}

/// Every part has its length in eight bytes in front, and every list its number, so that no two rulebooks run together
/// into the same bytes.
fn digest(scopes: &Scopes, roles: &Roles, policies: &[PolicySource]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let number = |hash: &mut Sha256, n: usize| hash.update((n as u64).to_be_bytes());
    let part = |hash: &mut Sha256, bytes: &[u8]| {
        number(hash, bytes.len());
        hash.update(bytes);
    };
    part(&mut hash, DIGEST_DOMAIN);
    part(&mut hash, &scopes.canonical());
    number(&mut hash, roles.texts().len());
    for (name, patterns) in roles.texts() {
        part(&mut hash, name.as_bytes());
        number(&mut hash, patterns.len());
        for pattern in patterns {
            part(&mut hash, pattern.as_bytes());
        }
    }
    number(&mut hash, policies.len());
    for policy in policies {
        part(&mut hash, policy.text.as_bytes());
    }
    hash.finalize().into()
}
