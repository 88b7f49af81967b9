//! In the place of the vault's `crypto`: a handle is what can be told from another.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u32);
