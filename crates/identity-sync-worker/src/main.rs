//! The `identity-sync-worker` process.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::service::main(identity_sync_worker::NAME, identity_sync_worker::run)
}
