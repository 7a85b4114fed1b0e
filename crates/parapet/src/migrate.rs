//! The migrations, embedded, and the one place that applies them. Services never do.

use anyhow::Context as _;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Brings a database to the newest version and returns that version. Concurrent runs wait for each other.
pub async fn run(database: &PgConnectOptions) -> anyhow::Result<i64> {
    let mut connection = database.connect().await.context("cannot connect to the database")?;
    MIGRATIONS
        .run_direct(None, &mut connection, false)
        .await
        .context("a migration failed; nothing of it remains")?;
    connection.close().await?;
    Ok(newest())
}

/// The newest version this program knows.
pub fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
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
