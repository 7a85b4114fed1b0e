//! The simulator over real sockets: the facts of the wire, the control port and misbehaviour on request.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot set up its world fails at once, and an absent JSON member reads as null"
)]

mod clients;
mod control;
mod entra_assignments;
mod entra_graph;
mod entra_groups;
mod entra_login;
mod faults;
mod lockout;
mod pressure;
mod stage;
