//! The rights that policies grant, one type each.
//!
//! They exist only as parameters of [`Permit`](super::Permit): there is no value of any of them, and no one else can
//! add one.

/// A right that a policy can grant.
pub trait Action: sealed::Named {
    /// Its name in policies.
    const NAME: &'static str = Self::VERB.name();
}

pub(super) mod sealed {
    /// Known to this module alone, so that the list of actions is closed.
    pub trait Named {
        /// The same right as a value.
        const VERB: super::Verb;
    }
}

/// A right as a value, where many are handled alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `tokenize`
    Tokenize,
    /// `detokenize`
    Detokenize,
    /// `inspect`
    Inspect,
    /// `renew`
    Renew,
    /// `revoke`
    Revoke,
    /// `queryAudit`
    QueryAudit,
    /// `administer`
    Administer,
}

impl Verb {
    /// Every right there is.
    pub const ALL: [Self; 7] = [
        Self::Tokenize,
        Self::Detokenize,
        Self::Inspect,
        Self::Renew,
        Self::Revoke,
        Self::QueryAudit,
        Self::Administer,
    ];

    /// Its name in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokenize => "tokenize",
            Self::Detokenize => "detokenize",
            Self::Inspect => "inspect",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::QueryAudit => "queryAudit",
            Self::Administer => "administer",
        }
    }

    /// The right of this name in policies.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    /// Whether it is about the vault, not about a scope.
    pub const fn concerns_vault(self) -> bool {
        matches!(self, Self::QueryAudit | Self::Administer)
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub enum $name {}

        impl sealed::Named for $name {
            const VERB: Verb = Verb::$name;
        }

        impl Action for $name {}
    )*};
}

actions! {
    /// To put values into a scope and get tokens for them.
    Tokenize;
    /// To get values of a scope back, in full or masked.
    Detokenize;
    /// To see the state of a scope's tokens, never a value.
    Inspect;
    /// To lengthen the life of a scope's tokens.
    Renew;
    /// To end the life of a scope's tokens.
    Revoke;
    /// To read the audit log and ask for proofs.
    QueryAudit;
    /// To run the vault.
    Administer;
}
