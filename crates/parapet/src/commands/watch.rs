//! Printing the same again and again.

use std::{io::IsTerminal as _, time::Duration};

use crate::cli::Global;

/// Whether something is printed once or until Ctrl-C.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Watch {
    /// Print again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

impl Watch {
    /// Prints it; on a terminal each time in the place of the last.
    pub async fn each(
        self,
        global: &Global,
        mut print: impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(seconds) = self.watch else { return print().await };
        loop {
            if !global.json && std::io::stdout().is_terminal() {
                print!("\x1b[H\x1b[2J");
            }
            print().await?;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }
}
