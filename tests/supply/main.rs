//! What the program is made of, and whether what is handed out is made of that and nothing else: known faults of
//! dependencies, code that the compiler can't vouch for, the bill of materials, a release that is made twice, and what it is installed
//! and watched with.

#![allow(missing_docs, reason = "tests say in their names what they show")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![allow(clippy::print_stdout, reason = "tests say what they left out and how much they did")]

mod advisories;
mod again;
mod bill;
mod client;
mod deployment;
mod floors;
mod instructions;
mod models;
#[path = "../integration/needs.rs"]
mod needs;
mod tree;
mod unsafe_code;
