//! The generated gRPC types of `proto/cloakroom/v1`.
//!
//! They are the shape of the wire and nothing more: only the doors (`grpc`, `client`, `cli`) may use them, and turn them
//! into the domain's own types at once. No message that can hold a value, a token or a request id implements `Debug`.

pub mod codec;

/// Package `cloakroom.v1`: messages, the two services' servers and their clients.
pub mod v1 {
    // Generated code is not ours to style, and its enum variants' documentation follows the .proto files.
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction)]
    tonic::include_proto!("cloakroom.v1");
}

/// All descriptors, encoded, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cloakroom_descriptor.bin"));

#[cfg(test)]
mod tests {
    use std::any::type_name;

    use super::v1;

    /// `Probe::<T>::PRINTS` is true if and only if `T: Debug`: an inherent constant wins over a trait's.
    struct Probe<T>(std::marker::PhantomData<T>);

    trait Silent {
        const PRINTS: bool = false;
    }
    impl<T> Silent for Probe<T> {}
    impl<T: std::fmt::Debug> Probe<T> {
        const PRINTS: bool = true;
    }

    macro_rules! assert_silent {
        ($($message:ty),+ $(,)?) => { $(assert!(!Probe::<$message>::PRINTS, "{} prints", type_name::<$message>());)+ };
    }

    #[test]
    fn messages_with_values_or_tokens_do_not_print_a_11() {
        const { assert!(Probe::<v1::AuditEvent>::PRINTS, "the probe itself must be able to see Debug") };
        assert_silent!(
            v1::TokenizeRequest,
            v1::TokenizeItem,
            v1::TokenizeResponse,
            v1::TokenizeResult,
            v1::tokenize_result::Outcome,
            v1::IssuedToken,
            v1::DetokenizeRequest,
            v1::DetokenizeResponse,
            v1::DetokenizeResult,
            v1::detokenize_result::Outcome,
            v1::InspectTokensRequest,
            v1::RenewTokensRequest,
            v1::RevokeTokensRequest,
            v1::StreamTokenizeRequest,
            v1::StreamTokenizeResponse,
            v1::StreamDetokenizeRequest,
            v1::StreamDetokenizeResponse,
            v1::QueryEventsRequest,
            v1::AuditFilter,
            v1::TailEventsRequest,
        );
    }
}
