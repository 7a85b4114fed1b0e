//! The process behind the command `parapet`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    end_when_nobody_reads();
    parapet::cli::main().await
}

/// `println!` panics when whoever read our output has gone, as in `parapet exposure list | head`. That ends the program,
/// but is nothing to complain about.
fn end_when_nobody_reads() {
    let complain = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(0);
        }
        complain(panic);
    }));
}
