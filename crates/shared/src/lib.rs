//! What Parapet's services share.
//!
//! Belongs here: the provider adapters and the attempt limiter; ids, verdicts, sealing; database, outbox, inbox,
//! broker and service lifecycle. Does not: anything only one service needs.

pub mod id;
pub mod integration;
pub mod limiter;
pub mod provider;
pub mod sealing;
pub mod secret;
pub mod verdict;
pub mod wire;
