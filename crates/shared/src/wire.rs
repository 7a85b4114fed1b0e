//! Generated code of the protos: the public API, the calls between services, and the messages on the broker.
//!
//! Wire types stay at the edges (`rpc`, handlers); the domain has its own types.

#![expect(
    clippy::pedantic,
    clippy::indexing_slicing,
    reason = "generated; the contract is documented in proto/"
)]

/// The public API, `parapet.v1`.
pub mod v1 {
    tonic::include_proto!("parapet.v1");
}
/// Calls between services, `parapet.internal.v1`.
pub mod internal {
    tonic::include_proto!("parapet.internal.v1");
}
/// Messages on the broker, `parapet.events.v1`.
pub mod events {
    tonic::include_proto!("parapet.events.v1");
}

/// The encoded descriptors of all three packages, custom options included, for reflection and for access checks.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
