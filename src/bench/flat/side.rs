//! A vault with little or with much of something, and a client for it.

use super::{FlatSettings, Of};
use crate::bench::driver::{Door, Drivers, Turns};
use crate::bench::identities::Identities;
use crate::bench::load::{Load, Target};
use crate::bench::place::{Place, Server};
use crate::bench::rounds::CROWDED;
use crate::bench::stand::tokens_in;
use crate::bench::{Error, identities};
use crate::tls::client::Connector;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt::Write;
use std::path::Path;

/// The scopes that this makes lie under it.
const PARENT: &str = "flat";
/// Different calls of each kind, at the least.
const CALLS: usize = 256;
/// Beside those that are measured: the vault refuses no connection for being one too many.
const SPARE_CONNECTIONS: usize = 64;
/// Tokens that are used where there is one scope.
const FILLING_CALLS: usize = 20_000;

/// The servers go before the place that they run on.
pub(super) struct Side {
    pub(super) vault: Server,
    floor: Option<Server>,
    pub(super) drivers: Drivers,
    place: Place,
    tokenize: Load,
    detokenize: Load,
    echo: Option<Load>,
}

impl Side {
    /// With so many of it.
    pub(super) async fn set_up(settings: &FlatSettings, of: Of, count: usize) -> Result<Self, Error> {
        let place = Place::make(&settings.directory)?;
        place.configure(&format!("[scopes.\"{PARENT}/*\"]\nformat = \"opaque\"\nprefix = \"flat\"\n"))?;
        place.permit(&policies(of, count))?;
        let connections = match of {
            Of::Connections | Of::Identities => (count / 2).max(1),
            _ => 8,
        };
        let most = (4 * connections + SPARE_CONNECTIONS).to_string();
        let variables = [
            ("CLOAKROOM_SERVER__MAX_CONNECTIONS", most.as_str()),
            ("CLOAKROOM_SERVER__MAX_CONNECTIONS_PER_CALLER", &most),
        ];
        let identities = if of == Of::Identities { Some(Identities::make(&place, connections)?) } else { None };
        let vault = place.vault_with(&variables)?;
        let floor = if of.concerns_the_floor() { Some(place.floor_with(&variables)?) } else { None };
        let shown = |caller: &str| match &identities {
            Some(identities) => identities.connectors(&place, caller),
            None => Ok(vec![place.connector(caller)?; connections]),
        };
        let doors = doors(&vault, floor.as_ref(), shown)?;
        // In turn over all of them only where their number is what matters.
        let turns = if of.concerns_the_floor() { Turns::Rotating } else { Turns::Kept };
        let drivers = Drivers::connect(&doors, turns).await?;
        let scopes = if of == Of::Scopes { count } else { 1 };
        // As many different calls on both sides.
        let calls = if of == Of::Scopes { settings.scopes.max(CALLS) } else { CALLS };
        let tokenize = Load::tokenize_in(1, calls, |call| scope(call % scopes), None);
        let detokenize = detokenize(&drivers, &tokenize, scopes).await?;
        let mut side = Self { vault, floor, drivers, place, tokenize, detokenize, echo: None };
        if side.floor.is_some() {
            side.echo = Some(side.echo().await?);
        }
        if of == Of::Log {
            side.lengthen_log(count).await?;
        }
        Ok(side)
    }

    /// Tokenize, Detokenize and, where there is a floor, the echo of Tokenize.
    pub(super) fn loads(&self) -> impl Iterator<Item = &Load> {
        [&self.tokenize, &self.detokenize].into_iter().chain(&self.echo)
    }

    /// The process that such calls go to.
    pub(super) fn server_of(&self, load: &Load) -> u32 {
        match (load.target, &self.floor) {
            (Target::Floor, Some(floor)) => floor.id(),
            _ => self.vault.id(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    async fn echo(&self) -> Result<Load, Error> {
        let replies = self.drivers.collect(&self.tokenize.first(1), 1).await?;
        Ok(Load::echo(self.tokenize.request_bytes(), replies.first().map_or(0, prost::bytes::Bytes::len)))
    }

    /// By events alone: nothing is stored.
    async fn lengthen_log(&self, events: usize) -> Result<(), Error> {
        let mut left = events;
        while left > 0 {
            let calls = left.min(FILLING_CALLS);
            let load = self.detokenize.repeated(calls);
            self.drivers.collect(&load, CROWDED).await?;
            left -= calls;
        }
        Ok(())
    }
}

/// One scope each, as long as the others' names.
fn scope(number: usize) -> String {
    format!("{PARENT}/s{number:06}")
}

/// What lets the calls through, and what there is much of.
fn policies(of: Of, count: usize) -> String {
    let callers = if of == Of::Identities { ["bench-gateway", "bench-payments"] } else { ["gateway", "payments"] };
    let mut text = String::new();
    for (caller, action) in callers.into_iter().zip(["tokenize", "detokenize"]) {
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "@id(\"bench-{action}\")\npermit (principal in Cloakroom::Role::\"{caller}\", action == \
             Cloakroom::Action::\"{action}\", resource in Cloakroom::Scope::\"{PARENT}\");\n"
        );
    }
    let others = if matches!(of, Of::OtherPolicies | Of::SamePolicies) { count } else { 0 };
    for number in 0..others {
        let resource = if of == Of::SamePolicies { scope(0) } else { scope(number + 1) };
        let _ = write!(
            text,
            "@id(\"bench-other-{number}\")\npermit (principal == Cloakroom::Workload::\"{}other/{number}\", action in \
             [Cloakroom::Action::\"tokenize\", Cloakroom::Action::\"detokenize\"], resource == \
             Cloakroom::Scope::\"{resource}\");\n",
            identities::TRUST_DOMAIN
        );
    }
    text
}

fn doors(
    vault: &Server,
    floor: Option<&Server>,
    shown: impl Fn(&str) -> Result<Vec<Connector>, Error>,
) -> Result<Vec<Door>, Error> {
    let (gateway, payments) = (shown("gateway")?, shown("payments")?);
    let floor = floor.map(|floor| Door { target: Target::Floor, address: floor.address, connectors: gateway.clone() });
    let vault = [(Target::Gateway, gateway), (Target::Payments, payments)].map(|(target, connectors)| Door {
        target,
        address: vault.address,
        connectors,
    });
    Ok(vault.into_iter().chain(floor).collect())
}

/// One token of each of the calls, each in its scope.
async fn detokenize(drivers: &Drivers, tokenize: &Load, scopes: usize) -> Result<Load, Error> {
    let tokens = tokens_in(&drivers.collect(tokenize, CROWDED).await?)?;
    let names: Vec<String> = (0..tokens.len()).map(|call| scope(call % scopes)).collect();
    let calls = names.iter().map(String::as_str).zip(tokens.chunks_exact(1));
    Ok(Load::detokenize_in(1, calls))
}

/// All descriptors that the system lets this process have: each connection takes one. Where they are too few, connecting says
/// so.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _may_be_refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
