//! The credential validator.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::service::main(credential_validator::NAME, credential_validator::run)
}
