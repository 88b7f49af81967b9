//! Cloakroom: a tokenization vault.
//!
//! The modules in the order in which to read them. Each imports only from those before it (`tests/tidy.rs` checks that),
//! so data goes down this list once and comes back once. What stands without a feature builds in seconds, without RocksDB,
//! Cedar, tonic and tokio: fuzzing and the offline verifier need no more. What has the feature `client` is for programs that
//! call a vault, and needs tonic, rustls and tokio: begin at [`client`].

pub mod secret;
pub mod clock;
#[cfg(feature = "client")]
pub mod sync;
#[cfg(feature = "client")]
pub mod file;
#[cfg(feature = "vault")]
pub mod telemetry;
pub mod merkle;
pub mod crypto;
pub mod token;
pub mod scope;
pub mod event;
pub mod verify;
pub mod caller;
#[cfg(feature = "vault")]
pub mod policy;
#[cfg(feature = "vault")]
pub mod limits;
#[cfg(feature = "vault")]
pub mod store;
#[cfg(feature = "vault")]
pub mod keys;
#[cfg(feature = "client")]
pub mod tls;
#[cfg(feature = "vault")]
pub mod https;
#[cfg(feature = "vault")]
pub mod ledger;
pub mod witness;
#[cfg(feature = "vault")]
pub mod vault;
#[cfg(feature = "vault")]
pub mod audit;
#[cfg(feature = "vault")]
pub mod export;
#[cfg(feature = "vault")]
pub mod admin;
#[cfg(feature = "client")]
pub mod proto;
#[cfg(feature = "vault")]
pub mod grpc;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "vault")]
pub mod config;
#[cfg(feature = "vault")]
pub mod server;
#[cfg(feature = "vault")]
pub mod bench;
#[cfg(feature = "vault")]
pub mod cli;
#[cfg(test)]
#[cfg(feature = "vault")]
mod fuzz;
