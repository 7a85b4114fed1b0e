//! The `audit-writer` process.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::service::main(audit_writer::NAME, audit_writer::run)
}
