//! The end-to-end harness: real servers, and what tests do with them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a harness that cannot set up its world fails the test, loudly and at once"
)]

pub mod bus;
pub mod idp;
pub mod outside;
pub mod permits;
pub mod pooler;
pub mod process;
pub mod proxy;
pub mod servers;
pub mod validation;
pub mod vault;

pub use bus::{Bus, until};
pub use idp::{Idp, walk};
pub use permits::Permits;
pub use pooler::PgBouncer;
pub use proxy::Proxy;
pub use servers::{
    Database, Servers, Vhost, certificates, database, database_on, free_port, prepare, program, server_dir,
    servers, unique, vhost,
};

/// How much of something a test does: `short`, or `long` where `PARAPET_PROOF=long` asks for it, as `make proof` does.
pub fn size(short: usize, long: usize) -> usize {
    if std::env::var_os("PARAPET_PROOF").is_some_and(|asked| asked == "long") { long } else { short }
}

/// How often a process dies at each stage.
pub fn kills() -> usize {
    size(20, 200)
}
