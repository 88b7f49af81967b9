//! A policy as it was written: what Cedar made of it, and where its parts stand.

use cedar_policy::Policy;

use super::mistake::Place;
use super::statement::Reads;

/// One policy that was found to be right.
pub(super) struct Written {
    /// Under its `@id`.
    pub policy: Policy,
    /// What it reads of the call.
    pub reads: Reads,
    /// Where it begins.
    pub place: Place,
    /// Its conditions, in order.
    pub clauses: Vec<Clause>,
}

/// One `when { … }` or `unless { … }`.
pub(super) struct Clause {
    /// Where it begins.
    pub place: Place,
    /// As written, on one line.
    pub text: String,
}

impl Written {
    /// Its `@id`.
    pub fn id(&self) -> String {
        self.policy.id().to_string()
    }
}
