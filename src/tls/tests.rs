//! Real handshakes over loopback, against certificates made by hand.

mod certificates;
mod client_side;
mod door;
mod files;
mod limits;
mod negotiation;
