//! Every method that the server offers, and what it asks policy for. A method that is not here is refused, and a test
//! compares the table with the descriptors, so that a new rpc without a row does not pass.

use crate::event::Action;
use metrics::Counter;
use std::sync::Arc;
use tonic::Code;

/// Codes are 0 to 16.
const CODES: usize = 17;

/// What a method's permission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The scope that the request names.
    Scope,
    /// The vault as a whole.
    Vault,
    /// Nothing: anyone with a valid certificate may call it, and it is not audited.
    None,
}

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// As events and policy name it. [`Action::Unspecified`] where there is no permission.
    pub action: Action,
    /// What the permission is about.
    pub resource: Resource,
    /// Whether each message of its stream is a call of its own.
    pub batches: bool,
    /// Whether the caller sends one message, and that is all.
    pub one_message: bool,
    /// Whether it has many answers.
    pub streams: bool,
}

/// One method's calls by the status that they got. Made once for all codes, so that counting looks nothing up. All
/// counters of a method are the same ones.
#[derive(Clone)]
pub(super) struct Counters(Arc<[Counter; CODES]>);

const fn on_scope(path: &'static str, action: Action) -> Method {
    Method { path, action, resource: Resource::Scope, batches: false, one_message: true, streams: false }
}

const fn batches_on_scope(path: &'static str, action: Action) -> Method {
    Method { path, action, resource: Resource::Scope, batches: true, one_message: false, streams: true }
}

const fn on_vault(path: &'static str) -> Method {
    Method {
        path,
        action: Action::QueryAudit,
        resource: Resource::Vault,
        batches: false,
        one_message: true,
        streams: false,
    }
}

const fn open(path: &'static str) -> Method {
    Method {
        path,
        action: Action::Unspecified,
        resource: Resource::None,
        batches: false,
        one_message: true,
        streams: false,
    }
}

macro_rules! rows {
    ($($name:ident = $row:expr;)*) => {
        $(#[doc = "See [`METHODS`]."] pub static $name: Method = $row;)*
        /// The table.
        pub static METHODS: &[&Method] = &[$(&$name),*];
    };
}

rows! {
    TOKENIZE = on_scope("/cloakroom.v1.TokenService/Tokenize", Action::Tokenize);
    DETOKENIZE = on_scope("/cloakroom.v1.TokenService/Detokenize", Action::Detokenize);
    INSPECT_TOKENS = on_scope("/cloakroom.v1.TokenService/InspectTokens", Action::Inspect);
    RENEW_TOKENS = on_scope("/cloakroom.v1.TokenService/RenewTokens", Action::Renew);
    REVOKE_TOKENS = on_scope("/cloakroom.v1.TokenService/RevokeTokens", Action::Revoke);
    STREAM_TOKENIZE = batches_on_scope("/cloakroom.v1.TokenService/StreamTokenize", Action::Tokenize);
    STREAM_DETOKENIZE = batches_on_scope("/cloakroom.v1.TokenService/StreamDetokenize", Action::Detokenize);
    QUERY_EVENTS = on_vault("/cloakroom.v1.AuditService/QueryEvents");
    TAIL_EVENTS = Method { streams: true, ..on_vault("/cloakroom.v1.AuditService/TailEvents") };
    GET_CHECKPOINT = on_vault("/cloakroom.v1.AuditService/GetCheckpoint");
    GET_INCLUSION_PROOF = on_vault("/cloakroom.v1.AuditService/GetInclusionProof");
    GET_CONSISTENCY_PROOF = on_vault("/cloakroom.v1.AuditService/GetConsistencyProof");
    HEALTH_CHECK = open("/grpc.health.v1.Health/Check");
    HEALTH_WATCH = Method { streams: true, ..open("/grpc.health.v1.Health/Watch") };
    REFLECTION = Method { one_message: false, streams: true, ..open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo") };
}

impl Method {
    /// Whether how long it takes says something: not of a stream, which goes on for as long as its caller likes.
    pub(super) fn is_timed(&self) -> bool {
        !self.streams && self.resource != Resource::None
    }
}

/// The row of a path.
pub fn find(path: &str) -> Option<(usize, &'static Method)> {
    METHODS.iter().enumerate().find(|(_, method)| method.path == path).map(|(place, method)| (place, *method))
}

impl Counters {
    pub fn of(method: &'static Method) -> Self {
        let counter = |code: usize| {
            let code = Code::from_i32(i32::try_from(code).unwrap_or(2));
            metrics::counter!("cloakroom_calls_total", "method" => method.path, "code" => format!("{code:?}"))
        };
        Self(Arc::new(std::array::from_fn(counter)))
    }

    /// Counts a call that got `code`.
    pub fn count(&self, code: Code) {
        if let Some(counter) = usize::try_from(i32::from(code)).ok().and_then(|code| self.0.get(code)) {
            counter.increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use std::collections::BTreeSet;

    #[test]
    fn every_rpc_has_a_row_and_every_row_an_rpc_z_01() {
        let files = prost_types::FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut offered = BTreeSet::new();
        for file in files.file.iter().filter(|file| file.package() == "cloakroom.v1") {
            for service in &file.service {
                offered.extend(
                    service
                        .method
                        .iter()
                        .map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())),
                );
            }
        }
        let rows: BTreeSet<String> = METHODS
            .iter()
            .map(|method| method.path.to_owned())
            .filter(|path| path.starts_with("/cloakroom."))
            .collect();
        assert_eq!(offered, rows, "add a row to grpc::methods and to the matrix in tests/ for each new rpc");
    }

    #[test]
    fn only_health_and_reflection_are_open() {
        for method in METHODS {
            let open = method.path.starts_with("/grpc.health.") || method.path.starts_with("/grpc.reflection.");
            assert_eq!(open, method.resource == Resource::None, "{}", method.path);
        }
    }
}
