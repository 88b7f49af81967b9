//! Logs that were tampered with, in both forms. Every test begins with a log that holds.

mod forks;
mod forms;
mod frozen;
mod keys;
mod made;
mod parts;
mod structure;
mod tampering;
mod witnesses;
