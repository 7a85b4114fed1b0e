//! Programs the servers need: found, installed by package name, or named with the exact command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::unpack;

/// A Debian package that carries a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Package {
    /// PostgreSQL 14 or later with its contributed modules.
    Postgresql,
    /// RabbitMQ 3.10 or later.
    RabbitmqServer,
    /// PgBouncer, for the tests behind a pooler.
    Pgbouncer,
}

impl Package {
    /// The package's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::RabbitmqServer => "rabbitmq-server",
            Self::Pgbouncer => "pgbouncer",
        }
    }

    /// The directory of its programs, when it is there.
    pub fn bin(self) -> Option<PathBuf> {
        let (program, variable) = match self {
            Self::Postgresql => ("initdb", "PARAPET_POSTGRES_BIN"),
            Self::RabbitmqServer => ("rabbitmq-server", "PARAPET_RABBITMQ_BIN"),
            Self::Pgbouncer => ("pgbouncer", "PARAPET_PGBOUNCER_BIN"),
        };
        let mut places: Vec<PathBuf> = std::env::var_os(variable).map(PathBuf::from).into_iter().collect();
        match self {
            Self::Postgresql => places.extend(newest_first("/usr/lib/postgresql", "bin")),
            Self::RabbitmqServer => places.push("/usr/lib/rabbitmq/bin".into()),
            Self::Pgbouncer => places.push("/usr/sbin".into()), // not in everybody's search path
        }
        // Debian's /usr/sbin/rabbitmq-server is a wrapper that changes user and directory: not what is wanted.
        places.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths).filter(|dir| {
            self != Self::RabbitmqServer || !dir.ends_with("sbin") || !Path::new("/usr/lib/rabbitmq").exists()
        }));
        if self == Self::RabbitmqServer {
            places.extend(unpack::broker_bin());
        }
        places.into_iter().find(|dir| dir.join(program).is_file())
    }
}

/// `parent/VERSION/leaf`, the highest version first.
fn newest_first(parent: &str, leaf: &str) -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join(leaf))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, path)| path).collect()
}

/// Makes sure that `packages` are there: installs the missing ones as root, else says which command does.
pub async fn ensure(packages: &[Package]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages.iter().filter(|p| p.bin().is_none()).map(|p| p.name()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let by_hand = format!("apt-get update && apt-get install -y --no-install-recommends {names}");
    let apt_works = Path::new("/usr/bin/apt-get").exists();
    if !rustix::process::geteuid().is_root() {
        // The broker runs from unpacked packages; a database server needs more of the system than that.
        if apt_works && missing == [Package::RabbitmqServer.name()] {
            eprintln!("unpacking rabbitmq-server into the cache");
            let unpacked = tokio::task::spawn_blocking(unpack::unpack).await?;
            return unpacked
                .with_context(|| format!("RabbitMQ is missing; install it as root with: {by_hand}"));
        }
        bail!("programs are missing; install them as root with: {by_hand}");
    }
    anyhow::ensure!(apt_works, "programs are missing: {names}; on Debian: {by_hand}");
    eprintln!("installing missing packages: {names}");
    let install = move || -> anyhow::Result<()> {
        let _quiet = NoServiceStarts::new()?;
        apt(&["update"])?;
        apt(&[&["install", "-y", "--no-install-recommends"], missing.as_slice()].concat())
    };
    tokio::task::spawn_blocking(install)
        .await?
        .with_context(|| format!("installing failed; by hand: {by_hand}"))?;
    match packages.iter().find(|p| p.bin().is_none()) {
        Some(package) => bail!("package {} is installed, but its programs were not found", package.name()),
        None => Ok(()),
    }
}

fn apt(args: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("cannot run apt-get")?;
    if !done.status.success() {
        bail!("apt-get {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// While it lives, Debian packages start no service: a system-wide broker on the standard port is not ours to start.
struct NoServiceStarts(Option<PathBuf>);

impl NoServiceStarts {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let policy = PathBuf::from("/usr/sbin/policy-rc.d");
        let created = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&policy);
        match created {
            Ok(mut file) => {
                std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n")?;
                Ok(Self(Some(policy)))
            }
            // The machine has a policy of its own: it stands.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self(None)),
            Err(e) => Err(e).context("cannot write /usr/sbin/policy-rc.d"),
        }
    }
}

impl Drop for NoServiceStarts {
    fn drop(&mut self) {
        if let Some(policy) = &self.0 {
            std::fs::remove_file(policy).ok();
        }
    }
}
