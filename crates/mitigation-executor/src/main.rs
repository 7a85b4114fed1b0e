//! The `mitigation-executor` process.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::service::main("mitigation-executor", mitigation_executor::run)
}
