//! The process behind the command `parapet`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    parapet::cli::main().await
}
