//! What `main` of every service does: harden, configure, log, run, flush.

use std::{future::Future, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use super::{Configuration, Stopped, config, telemetry};

/// Runs a service from its command line to its exit code.
///
/// `run` gets the configuration and a future that ends at the first SIGTERM or SIGINT; the second one ends the
/// process at once.
pub fn main<C, F>(name: &'static str, run: impl FnOnce(C, Signals) -> F) -> ExitCode
where
    C: Configuration,
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    let config: C = match config::from_command_line(name) {
        Ok(Some(config)) => config,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        let telemetry = match telemetry::init(name, &config.common().telemetry) {
            Ok(telemetry) => telemetry,
            Err(error) => {
                eprintln!("{name}: telemetry: {error:#}");
                return ExitCode::FAILURE;
            }
        };
        let code = match prepared() {
            Ok(signals) => run(config, signals).await,
            Err(error) => Err(error),
        };
        let code = code.unwrap_or_else(|error| {
            if error.is::<Stopped>() {
                tracing::info!("stopped before the service was up");
                return ExitCode::SUCCESS;
            }
            tracing::error!(error = format!("{error:#}"), "service failed");
            ExitCode::FAILURE
        });
        telemetry.flush().await;
        code
    });
    // Whatever did not end within the grace period ends with the process.
    runtime.shutdown_background();
    code
}

/// Ends at the first request to stop.
pub type Signals = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn prepared() -> anyhow::Result<Signals> {
    // Secrets in memory must not reach a core file, nor another process of the same user.
    rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
    )?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    signals()
}

/// Listens for SIGTERM and SIGINT: the returned future ends at the first, the process at the second.
pub fn signals() -> anyhow::Result<Signals> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let (asked, stop) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        if asked.send(()).is_err() {
            tracing::debug!("nobody waits for the signal any more");
        }
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::warn!("second signal: leaving at once");
        std::process::exit(1);
    });
    Ok(Box::pin(async move {
        if stop.await.is_err() {
            std::future::pending::<()>().await;
        }
    }))
}
