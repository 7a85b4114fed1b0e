//! The simulator as a process: `idp-simulator --listen 127.0.0.1:8443 --control 127.0.0.1:8444 …`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Microsoft Entra ID and Okta over the wire, for development, tests and demonstrations.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address of the public listener, which plays the providers' hosts.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address of the control port; it lists passwords, so keep it on loopback.
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// Certificate chain (PEM): the public listener speaks HTTPS.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// CA certificates (PEM) to trust besides the system's when fetching an application's keys.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// File with one directory or an array of directories; may be repeated.
    #[arg(long = "directories", value_name = "FILE")]
    directories: Vec<PathBuf>,
    /// Appends every submission and change to this file as JSON lines.
    #[arg(long)]
    log: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut terminate = signal(SignalKind::terminate())?;
    let running = idp_simulator::start(idp_simulator::Config {
        listen: args.listen,
        control: args.control,
        tls: args.tls_cert.zip(args.tls_key),
        ca: args.ca,
        directories: args.directories,
        log: args.log,
    })
    .await?;
    println!("ready listen={} control={}", running.addr, running.control_addr);
    tokio::select! {
        _ = terminate.recv() => {}
        outcome = tokio::signal::ctrl_c() => outcome?,
    }
    running.shutdown().await;
    Ok(())
}
