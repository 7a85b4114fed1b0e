//! The executor's own `main`, with its fail points compiled in: what the kill tests start and kill.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::service::main("mitigation-executor", mitigation_executor::run)
}
