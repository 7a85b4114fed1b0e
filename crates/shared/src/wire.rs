//! Generated code of the protos: the public API, the calls between services, and the messages on the broker.
//!
//! Wire types stay at the edges (`rpc`, handlers); the domain has its own types.

#![expect(
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::large_enum_variant,
    reason = "generated; the contract is documented in proto/"
)]

// Generated code finds other packages by their place among these modules.
mod parapet {
    /// The public API, `parapet.v1`.
    pub mod v1 {
        tonic::include_proto!("parapet.v1");
    }
    pub mod internal {
        /// Calls between services, `parapet.internal.v1`.
        pub mod v1 {
            tonic::include_proto!("parapet.internal.v1");
        }
    }
    pub mod events {
        /// Messages on the broker, `parapet.events.v1`.
        pub mod v1 {
            tonic::include_proto!("parapet.events.v1");
        }
    }
}
pub use parapet::{events::v1 as events, internal::v1 as internal, v1};

// INVARIANT (I8): a wire message with a secret does not print it; the build leaves their derived Debug out.
macro_rules! opaque_debug {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for v1::$name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}
opaque_debug!(EntraCredentials, FeedRecord, SecretHash, Cookie);

/// The encoded descriptors of all three packages, custom options included, for reflection and for access checks.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn messages_with_secrets_do_not_print_them() {
        let record = v1::FeedRecord { secret: b"hunter2".to_vec(), ..Default::default() };
        let batch = v1::IngestFeedRecordsRequest { records: vec![record], ..Default::default() };
        let credentials = v1::IntegrationCredentials {
            credentials: Some(v1::integration_credentials::Credentials::Entra(v1::EntraCredentials {
                client_secret: "hunter2".into(),
                certificate_pem: "hunter2".into(),
            })),
        };
        let shown = format!("{batch:?} {credentials:?}");
        assert!(shown.contains("FeedRecord(..)") && shown.contains("EntraCredentials(..)"));
        assert!(!shown.contains("hunter2") && !shown.contains("104, 117"));
    }
}
