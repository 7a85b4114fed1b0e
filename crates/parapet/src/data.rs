//! The one directory of a local stack, and what lies where in it; reports.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::servers::private_dir;

const NAME: &str = ".parapet";

/// Writes a report as JSON, with the folders that lead to it.
pub fn save_json(file: &Path, report: &impl Serialize) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    std::fs::write(file, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

/// The directory of a local stack. Everything the stack writes lies in it.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The named directory; else `.parapet` here or in the nearest parent that has one; else `.parapet` here.
    pub fn find(named: Option<&Path>) -> anyhow::Result<Self> {
        let here = std::env::current_dir().context("the current directory is gone")?;
        let dir = match named {
            Some(dir) => here.join(dir),
            None => here
                .ancestors()
                .map(|dir| dir.join(NAME))
                .find(|dir| dir.is_dir())
                .unwrap_or_else(|| here.join(NAME)),
        };
        Ok(Self(dir))
    }

    /// Creates it, closed to everybody else but for passing through: the database server's user has its data below.
    pub fn create(&self) -> anyhow::Result<()> {
        private_dir(&self.0)?;
        if rustix::process::geteuid().is_root() {
            std::fs::set_permissions(&self.0, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        }
        for part in ["config", "directories", "issuer", "keys", "logs", "secrets", "tls", "tokens"] {
            private_dir(&self.0.join(part))?;
        }
        Ok(())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where PostgreSQL keeps everything.
    pub fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    /// Where RabbitMQ keeps everything.
    pub fn rabbitmq(&self) -> PathBuf {
        self.0.join("rabbitmq")
    }

    /// The configuration file of a service.
    pub fn config(&self, service: &str) -> PathBuf {
        self.0.join("config").join(format!("{service}.toml"))
    }

    /// The log file of a process.
    pub fn log(&self, process: &str) -> PathBuf {
        match process {
            "postgres" => self.postgres().join("postgres.log"),
            "rabbitmq" => self.rabbitmq().join("rabbitmq.log"),
            _ => self.0.join("logs").join(format!("{process}.log")),
        }
    }

    /// A file with one secret.
    pub fn secret(&self, name: &str) -> PathBuf {
        self.0.join("secrets").join(name)
    }

    /// A sealing key file.
    pub fn key(&self, name: &str) -> PathBuf {
        self.0.join("keys").join(name)
    }

    /// The directory of the certificates.
    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    /// The directory of the development token issuer: its signing key and its callers.
    pub fn issuer(&self) -> PathBuf {
        self.0.join("issuer")
    }

    /// Directories for the simulator, one or more in each `.json` file, as its `--directories` takes them.
    pub fn directories(&self) -> PathBuf {
        self.0.join("directories")
    }

    /// The cached tokens.
    pub fn tokens(&self) -> PathBuf {
        self.0.join("tokens")
    }

    /// The metrics of each service, as a search for secrets saw them.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics")
    }

    /// Every span that the services exported, when the stack was told to keep them.
    pub fn spans(&self) -> PathBuf {
        self.0.join("spans")
    }

    /// Where the local integration-api and issuer answer, for the commands that call them.
    pub fn endpoints(&self) -> PathBuf {
        self.0.join("endpoints.json")
    }

    /// What the supervisor last wrote about its children.
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Held by the running supervisor; holds its process id.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}
