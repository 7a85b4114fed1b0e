//! The validator's own `main`, with its fail points compiled in: what the kill tests start and kill.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::service::main(credential_validator::NAME, credential_validator::run)
}
