//! The command line `parapet`: the local stack, and the operator's and the analyst's commands.
//!
//! Belongs here: whatever a person types, and the private servers that tests borrow. Does not: anything a service
//! needs at run time.

pub mod bootstrap;
pub mod canary;
pub mod certs;
pub mod cli;
pub mod client;
pub mod commands;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod feed;
pub mod issuer;
pub mod keys;
pub mod login;
pub mod migrate;
pub mod servers;
pub mod stack;
