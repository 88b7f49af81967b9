//! The real program, started anew for each test, and talked to over mutual TLS.
//!
//! Nothing here waits for a while: a test waits for an answer, for a line of output, for an event in the log or for the
//! end of a process.

#![cfg(feature = "vault")]
#![allow(missing_docs, reason = "tests say in their names what they show")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![allow(clippy::print_stdout, reason = "tests say what they left out and how much they did")]

mod amounts;
mod audit;
mod backup;
mod bench;
mod bytes;
mod clients;
mod clocks;
mod confined;
mod corruption;
mod coverage;
mod crash;
mod deadlines;
mod deadly;
mod deputy;
mod diet;
mod disks;
mod door;
mod durability;
mod endings;
mod endpoints;
mod entropy;
mod exhaustion;
mod exports;
mod faults;
mod figures;
mod floods;
// Certificates as wrong as they have to be: the ones that the vault's own tests use.
#[path = "../../src/caller/forge.rs"]
#[allow(dead_code, reason = "the vault's own tests use the rest")]
mod forge;
mod frames;
mod golden;
mod gone;
mod harness;
mod invariants;
mod killed;
mod linear;
mod matrix;
mod memory;
mod million;
mod mistakes;
mod needles;
mod needs;
mod open_loop;
mod oracle;
mod overload;
mod policy;
mod power;
mod promises;
mod purge;
mod races;
mod report;
mod requests;
mod rotation;
mod rulebooks;
mod service;
mod sinks;
mod soak;
mod stall;
mod strace;
mod strangers;
mod streams;
mod tail;
mod tls_wire;
mod tokens;
mod unique;
mod verify;
mod witness;
