//! Cloakroom: a tokenization vault.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod secret;
pub mod clock;
