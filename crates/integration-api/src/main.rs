//! The `integration-api` process.

fn main() -> std::process::ExitCode {
    shared::service::main("integration-api", integration_api::run)
}
