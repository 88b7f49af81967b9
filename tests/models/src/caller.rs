//! In the place of the vault's `caller`: who it is can be told from another.

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId(pub u32);

pub struct Caller {
    pub id: SpiffeId,
}
