//! What Parapet's services share.
//!
//! Belongs here: the provider adapters and the attempt limiter; ids, verdicts, sealing; database, outbox, inbox,
//! broker and service lifecycle. Does not: anything only one service needs.

pub mod audit;
pub mod db;
pub mod failpoint;
pub mod grpc;
pub mod id;
pub mod identifier;
pub mod inbox;
pub mod integration;
pub mod integration_store;
pub mod limiter;
pub mod mitigation;
pub mod outbound;
pub mod outbox;
pub mod policy;
pub mod provider;
pub mod queue;
pub mod relay;
pub mod rotation;
pub mod sealing;
pub mod secret;
pub mod service;
pub mod tls;
pub mod triage;
pub mod verdict;
pub mod wire;
pub mod work;
