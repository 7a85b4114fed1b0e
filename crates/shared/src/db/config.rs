//! Where the database is and how a connection to it is made.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::StoreError;
use crate::tls::{Contents, Files, Material, Reloaded};

/// Whether the connection to PostgreSQL is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseTls {
    /// Not encrypted: for a server on the same machine, and refused for any other.
    #[default]
    Disable,
    /// Encrypted with TLS 1.3; certificate chain and host name are verified.
    VerifyFull,
}

/// What may stand between a service and its PostgreSQL server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooler {
    /// One that gives a connection to the server for one transaction (PgBouncer's `pool_mode = transaction`). What belongs
    /// to a session is then said in each transaction, and no plan is kept.
    Transaction,
}

/// Where the database is and how long it may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Login role: `parapet_api`, `parapet_sync`, ...
    pub user: String,
    /// File with the role's password, without or with a final line break. None when the server asks for none.
    pub password_file: Option<PathBuf>,
    /// Encryption.
    pub tls: DatabaseTls,
    /// File with the certificate authorities to trust (PEM), besides the public ones that sqlx has built in.
    pub ca_file: Option<PathBuf>,
    /// This service's own certificate chain (PEM), where the server asks for one. It logs in with its password all the
    /// same, unless the server takes the certificate for it.
    pub cert_file: Option<PathBuf>,
    /// The private key of that certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// The pooler that `host` is. None: the server itself, or one that keeps a connection for a session.
    pub pooler: Option<Pooler>,
    /// Most connections this process opens.
    pub max_connections: u32,
    /// Longest wait for a free or new connection, in seconds.
    pub acquire_timeout_seconds: u64,
    /// Longest statement, in seconds.
    pub statement_timeout_seconds: u64,
    /// Longest wait for a lock, in seconds.
    pub lock_timeout_seconds: u64,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 5432,
            database: String::new(),
            user: String::new(),
            password_file: None,
            tls: DatabaseTls::Disable,
            ca_file: None,
            cert_file: None,
            key_file: None,
            pooler: None,
            max_connections: 10,
            acquire_timeout_seconds: 10,
            statement_timeout_seconds: 60,
            lock_timeout_seconds: 20,
        }
    }
}

impl DatabaseConfig {
    fn certificates(&self) -> Files {
        match self.tls {
            DatabaseTls::Disable => Files::default(),
            DatabaseTls::VerifyFull => Files {
                own: self.cert_file.clone().zip(self.key_file.clone()),
                authorities: self.ca_file.clone(),
                ..Files::default()
            },
        }
    }

    /// How to connect, kept up to date with the files.
    pub(super) async fn options(&self) -> Result<Reloaded<PgConnectOptions>, StoreError> {
        let (config, certificates) = (self.clone(), self.certificates());
        let mut files = certificates.paths();
        files.extend(self.password_file.clone());
        let options = Reloaded::start("database", files, move |contents| {
            if config.tls == DatabaseTls::VerifyFull {
                // The driver reads them at each connection; what cannot be used is refused here, before.
                Material::read("database", &certificates, contents)?.client()?;
            }
            config.options_with(contents)
        });
        options.await.map_err(|error| StoreError::Config {
            what: "the database's password or certificates cannot be used",
            source: std::io::Error::other(format!("{error:#}")),
        })
    }

    /// How every session of ours is set.
    fn settings(&self) -> [(&'static str, String); 6] {
        [
            ("statement_timeout", format!("{}s", self.statement_timeout_seconds)),
            ("lock_timeout", format!("{}s", self.lock_timeout_seconds)),
            ("idle_in_transaction_session_timeout", "60s".to_owned()),
            // A plan kept from when a table was empty goes on scanning it while a first sync fills it: measured
            // at half a second for each page of 999 accounts, and growing.
            ("plan_cache_mode", "force_custom_plan".to_owned()),
            // Solid-state storage: at the server's default of 4, made for spinning disks, a page of 999 accounts is
            // looked up by reading the whole table until that has some 60,000 rows; measured at ten times the cost.
            ("random_page_cost", "1.1".to_owned()),
            // Compiling a plan costs more than any statement here runs.
            ("jit", "off".to_owned()),
        ]
    }

    /// What each transaction begins with behind a pooler; None without one.
    pub(super) fn each_transaction(&self) -> Option<String> {
        let Pooler::Transaction = self.pooler?;
        // Statements that somebody else has prepared in this session have the names that we are about to give: without a
        // cache the driver prepares, and never takes back.
        let mut begin = "DEALLOCATE ALL;".to_owned();
        for (name, value) in self.settings() {
            begin.extend([" SET LOCAL ", name, " = '", value.as_ref(), "';"]);
        }
        Some(begin)
    }

    /// `contents`: own certificate and key, authorities, password; those that are configured.
    fn options_with(&self, contents: &[Contents]) -> anyhow::Result<PgConnectOptions> {
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .database(&self.database)
            .username(&self.user)
            .application_name(&self.user)
            .disable_statement_logging();
        options = match self.pooler {
            None => options.options(self.settings()),
            // A pooler refuses parameters that it does not know, and could not hold them for us. Without a cache the driver
            // takes none of its prepared statements for present at a server that has never seen it.
            Some(Pooler::Transaction) => options.extra_float_digits(None).statement_cache_capacity(0),
        };
        let mut contents = contents.iter();
        let mut next = || contents.next().context("a file was not read");
        match self.tls {
            DatabaseTls::Disable => options = options.ssl_mode(PgSslMode::Disable),
            DatabaseTls::VerifyFull => {
                options = options.ssl_mode(PgSslMode::VerifyFull);
                if self.cert_file.is_some() && self.key_file.is_some() {
                    options = options.ssl_client_cert_from_pem(next()?).ssl_client_key_from_pem(next()?);
                }
                if self.ca_file.is_some() {
                    options = options.ssl_root_cert_from_pem(next()?.to_vec());
                }
            }
        }
        if self.password_file.is_some() {
            let password = std::str::from_utf8(next()?).context("the password file is not UTF-8")?;
            options = options.password(password.trim_end_matches(['\r', '\n']));
        }
        Ok(options)
    }
}
