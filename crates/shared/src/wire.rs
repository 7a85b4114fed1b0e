//! Generated code of the protos: the public API, the calls between services, and the messages on the broker.
//!
//! Wire types stay at the edges (`rpc`, handlers); the domain has its own types.

#![expect(
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::large_enum_variant,
    reason = "generated; the contract is documented in proto/"
)]

use prost::Message as _;

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

// Generated from the option `(parapet.internal.v1.callers)`.
include!(concat!(env!("OUT_DIR"), "/callers.rs"));

/// Every method of every service: the service's full name, and the method's own.
pub fn methods() -> Vec<(String, String)> {
    // Our own descriptors, compiled in: a build that cannot read them has none of the services either.
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let mut all = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            all.extend(service.method.iter().map(|method| (name.clone(), method.name().to_owned())));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn every_method_between_services_says_who_calls_it() {
        let methods = super::methods();
        let internal: Vec<String> = methods
            .iter()
            .filter(|(service, _)| service.starts_with("parapet.internal."))
            .map(|(service, method)| format!("{service}/{method}"))
            .collect();
        let told: Vec<&str> = super::CALLERS.iter().map(|(method, _)| *method).collect();
        assert_eq!(internal, told);
        assert!(internal.len() >= 10 && methods.len() > internal.len(), "{methods:?}");
    }

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
