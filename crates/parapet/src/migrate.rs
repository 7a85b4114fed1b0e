//! The migrations, embedded, and the one place that applies them. Services never do.

use anyhow::Context as _;
use shared::db::MIGRATOR;
use shared::tls::is_this_machine;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::certs::Certificates;
use crate::cli::Global;
use crate::servers::{Postgres, PostgresSettings};
use crate::stack::DATABASE;

/// `parapet migrate`
#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// A file with the URL of the database, whose user owns it:
    /// postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full&sslrootcert=FILE
    /// [default: the local stack's database, which is started for this when it is down]
    #[arg(long, value_name = "FILE", env = "PARAPET_DATABASE_URL_FILE")]
    url_file: Option<std::path::PathBuf>,
}

impl Migrate {
    /// Migrates and says to which version.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let version = if let Some(file) = self.url_file {
            run(&target_in(&file)?).await?
        } else {
            let data = global.data()?;
            let running = crate::stack::is_running(&data);
            anyhow::ensure!(!running, "the local stack is up, and migrated its database when it started");
            data.create()?;
            let certificates = Certificates::prepare(&data.tls(), &[])?;
            let postgres =
                Postgres::start(&data.postgres(), PostgresSettings::default(), &certificates).await?;
            postgres.create_database(DATABASE, None).await?;
            let version = run(&postgres.connect_options(DATABASE)).await;
            postgres.stop().await;
            version?
        };
        if global.json {
            println!("{}", serde_json::json!({ "version": version }));
        } else {
            println!("the database is at version {version}");
        }
        Ok(())
    }
}

/// Where the URL in a file leads.
pub fn target_in(file: &std::path::Path) -> anyhow::Result<PgConnectOptions> {
    let url = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    target(url.trim()).with_context(|| file.display().to_string())
}

/// Where a URL leads; nowhere in clear but on this machine.
fn target(url: &str) -> anyhow::Result<PgConnectOptions> {
    // The parser's message could quote the URL, and the URL holds a password.
    let options: PgConnectOptions = url.parse().map_err(|_| anyhow::anyhow!("holds no database URL"))?;
    let verified = matches!(options.get_ssl_mode(), PgSslMode::VerifyFull);
    let here = options.get_socket().is_some() || is_this_machine(options.get_host());
    anyhow::ensure!(
        verified || here,
        "the database is on another machine: its URL needs sslmode=verify-full"
    );
    Ok(options)
}

/// Brings a database to the newest version and returns that version. Concurrent runs wait for each other.
pub async fn run(database: &PgConnectOptions) -> anyhow::Result<i64> {
    let mut connection = database.connect().await.context("cannot connect to the database")?;
    MIGRATOR
        .run_direct(None, &mut connection, false)
        .await
        .context("a migration failed; nothing of it remains")?;
    connection.close().await?;
    Ok(shared::db::required_schema())
}

/// The roles with which services log in: made by the migrations, without a password.
pub async fn service_roles(database: &PgConnectOptions) -> anyhow::Result<Vec<String>> {
    let mut connection = database.connect().await.context("cannot connect to the database")?;
    let roles = sqlx::query_scalar(
        "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND rolname LIKE 'parapet\\_%' ORDER BY rolname",
    )
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_on_another_machine_is_migrated_over_verified_tls_only() {
        for refused in ["postgres://u:p@db/parapet", "postgres://u:p@db/parapet?sslmode=require", "nonsense"]
        {
            let said = format!("{:#}", target(refused).unwrap_err());
            assert!(!said.contains("u:p"), "{said}");
        }
        for accepted in ["postgres://u:p@db/parapet?sslmode=verify-full", "postgres://u:p@127.0.0.1/parapet"]
        {
            target(accepted).unwrap();
        }
    }
}
