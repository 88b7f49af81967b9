//! The vocabulary as Cedar sees it: the schema, and how our nouns become its entities.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema, Validator};

use super::action::Verb;
use super::roles::Roles;
use super::{Context, Resource, Reveal};
use crate::caller::SpiffeId;
use crate::scope;

/// The schema, as `docs/policy.md` explains it.
pub const TEXT: &str = include_str!("schema.cedarschema");

/// Checks policies against [`TEXT`].
pub(super) static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let (schema, _) =
        Schema::from_cedarschema_str(TEXT).expect("the schema is part of this program and tests parse it");
    Validator::new(schema)
});

/// The kinds of entities that policies name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noun {
    Workload,
    Role,
    TrustDomain,
    Scope,
    Vault,
}

/// An entity and everything that it is `in`.
#[derive(Clone)]
pub(super) struct Kin {
    pub uid: EntityUid,
    pub above: HashSet<EntityUid>,
}

static NOUNS: LazyLock<[(Noun, EntityTypeName); 5]> = LazyLock::new(|| {
    [
        (Noun::Workload, type_name("Workload")),
        (Noun::Role, type_name("Role")),
        (Noun::TrustDomain, type_name("TrustDomain")),
        (Noun::Scope, type_name("Scope")),
        (Noun::Vault, type_name("Vault")),
    ]
});

static ACTIONS: LazyLock<[EntityUid; 7]> = LazyLock::new(|| {
    let action = type_name("Action");
    Verb::ALL.map(|verb| EntityUid::from_type_name_and_id(action.clone(), EntityId::new(verb.name())))
});

impl Noun {
    /// Which kind `uid` is of, if it is one of ours.
    pub fn of(uid: &EntityUid) -> Option<Self> {
        NOUNS.iter().find(|(_, name)| name == uid.type_name()).map(|(noun, _)| *noun)
    }

    pub fn uid(self, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.type_name().clone(), EntityId::new(id))
    }

    pub fn type_name(self) -> &'static EntityTypeName {
        &NOUNS[self as usize].1
    }
}

impl Kin {
    /// A caller with its roles and its trust domain.
    pub fn of_caller(id: &SpiffeId, roles: &Roles) -> Self {
        let mut above: HashSet<_> = roles.of(id).map(|role| Noun::Role.uid(role)).collect();
        above.insert(Noun::TrustDomain.uid(id.trust_domain()));
        Self { uid: Noun::Workload.uid(id.as_str()), above }
    }

    /// A scope with all that it lies under, or the vault.
    pub fn of_resource(resource: Resource<'_>) -> Self {
        match resource {
            Resource::Scope(path) => Self::of_scope(path),
            Resource::Vault => Self { uid: Noun::Vault.uid("vault"), above: HashSet::new() },
        }
    }

    fn of_scope(path: &scope::Path) -> Self {
        let above = path.ancestors().map(|ancestor| Noun::Scope.uid(ancestor)).collect();
        Self { uid: Noun::Scope.uid(path.as_str()), above }
    }

    pub fn into_entity(self) -> Entity {
        Entity::new_no_attrs(self.uid, self.above)
    }
}

/// The action's entity.
pub(super) fn action(verb: Verb) -> EntityUid {
    ACTIONS[verb as usize].clone()
}

/// Whether `uid` is written as one of our actions, known or not.
pub(super) fn is_action(uid: &EntityUid) -> bool {
    uid.type_name() == ACTIONS[0].type_name()
}

/// The call's context, as `Call` in the schema has it.
pub(super) fn context(context: &Context<'_>) -> [(String, RestrictedExpression); 4] {
    let reveal = match context.reveal {
        Reveal::Nothing => "none",
        Reveal::Full => "full",
        Reveal::Masked => "masked",
    };
    let now = UNIX_EPOCH + Duration::from_millis(context.now.millis());
    [
        ("purpose".into(), RestrictedExpression::new_string(context.purpose.into())),
        ("reveal".into(), RestrictedExpression::new_string(reveal.into())),
        ("requested".into(), RestrictedExpression::new_long(context.requested.into())),
        ("now".into(), RestrictedExpression::new_datetime(humantime::format_rfc3339_millis(now).to_string())),
    ]
}

fn type_name(name: &str) -> EntityTypeName {
    format!("Cloakroom::{name}").parse().expect("a namespace and an identifier make a type's name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_whole_and_names_what_this_module_names() {
        let (schema, warnings) = Schema::from_cedarschema_str(TEXT).unwrap();
        assert_eq!(warnings.count(), 0);
        for verb in Verb::ALL {
            assert!(schema.actions().any(|known| *known == action(verb)), "{verb:?}");
        }
        assert_eq!(schema.actions().count(), Verb::ALL.len());
        for (noun, name) in NOUNS.iter() {
            assert!(schema.entity_types().any(|known| known == name), "{name}");
            assert_eq!(Noun::of(&noun.uid("x")), Some(*noun));
        }
        assert_eq!(schema.entity_types().count(), NOUNS.len());
    }
}
