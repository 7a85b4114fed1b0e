//! The only door to PostgreSQL: how a connection is made and checked, and the one way to get a transaction.
//!
//! Two traps of sqlx are closed here, for everybody (`tests/it/database.rs` shows both without the protection):
//! a cancelled `begin` leaves its transaction open in the pool, so `begin` runs in a task of its own and a connection
//! goes back to the pool only after its transaction was seen to end; and `COMMIT` of a failed transaction is answered
//! without an error, so [`Tx::commit`] asks first.

mod config;
mod error;
pub(crate) mod outgoing;

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, PgPool, Postgres,
    migrate::Migrator,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};
use time::OffsetDateTime;
use tokio::{sync::Notify, task::AbortHandle};
use tokio_util::sync::CancellationToken;

pub use self::{
    config::{DatabaseConfig, DatabaseTls, Pooler},
    error::StoreError,
};
use crate::{id::TenantId, tls::Reloaded};

/// Every migration of the product, in the binary: `parapet` applies them, services only compare versions.
pub static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// The newest migration this build knows; a service is ready once the database has it.
pub fn required_schema() -> i64 {
    MIGRATOR.iter().map(|m| m.version).max().unwrap_or(0)
}

/// A pool of checked connections.
#[derive(Clone, Debug)]
pub struct Db {
    pool: PgPool,
    /// What each transaction begins with because no session is ours; None where sessions are.
    pooled: Option<Arc<str>>,
    wakes: Arc<Wakes>,
    _renewal: Arc<Renewal>,
}

/// Has a pool use the files of its configuration as they are, for as long as there is a [`Db`].
#[derive(Debug)]
struct Renewal(AbortHandle);

impl Renewal {
    fn start(pool: PgPool, mut options: Reloaded<PgConnectOptions>) -> Self {
        let renewal = tokio::spawn(async move {
            while let Some(options) = options.changed().await {
                pool.set_connect_options((*options).clone());
            }
        });
        Self(renewal.abort_handle())
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A loop that polls for what transactions commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    /// Of the outbox.
    Relay,
    /// Of the work.
    Dispatcher,
}

/// Wakes the loops of this process when one of its transactions has committed something for them.
#[derive(Debug, Default)]
struct Wakes {
    relay: Notify,
    dispatcher: Notify,
}

impl Db {
    /// Connects once and refuses a server that could lose what it acknowledged, or speaks an older TLS.
    ///
    /// New connections use password and certificates as their files are then; those that are open stay.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let options = config.options().await?;
        let current = options.current();
        // Asked by hand first, because the pool reports a refusing hook only as a timeout.
        let mut first = current.connect().await?;
        let pooled: Option<Arc<str>> = config.each_transaction().map(Arc::from);
        acceptable(&mut first, pooled.as_deref()).await?;
        sqlx::Connection::close(first).await?;
        let begin = pooled.clone();
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(Duration::from_secs(config.acquire_timeout_seconds))
            // BEGIN finds out whether a connection still works.
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let begin = begin.clone();
                Box::pin(async move {
                    let accepted = acceptable(connection, begin.as_deref()).await;
                    accepted.map_err(|e| sqlx::Error::Configuration(Box::new(e)))
                })
            })
            .connect_lazy_with((*current).clone());
        let renewal = Arc::new(Renewal::start(pool.clone(), options));
        Ok(Self { pool, pooled, wakes: Arc::default(), _renewal: renewal })
    }

    /// Waits until a transaction of this process has committed something for a loop that polls, or `at_most`; no less than
    /// `at_least`, so that rows that come together are seen together. False when asked to stop.
    pub(crate) async fn rest(
        &self,
        reader: Reader,
        [at_least, at_most]: [Duration; 2],
        stop: &CancellationToken,
    ) -> bool {
        let woken = match reader {
            Reader::Relay => &self.wakes.relay,
            Reader::Dispatcher => &self.wakes.dispatcher,
        };
        let rest = async {
            tokio::time::sleep(at_least).await;
            // What was committed meanwhile is remembered. Too late is no harm: this only ever shortens the wait.
            tokio::time::timeout(at_most.saturating_sub(at_least), woken.notified()).await.ok();
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = rest => true,
        }
    }

    /// A transaction that sees and writes the rows of one tenant only: the only way to reach a tenant's rows.
    pub async fn tenant(&self, tenant: TenantId) -> Result<Tx, StoreError> {
        self.begin(Some(tenant), Plans::Fresh, None).await.map(|(tx, _)| tx)
    }

    /// A transaction without a tenant, for the tables that have none. Tenants' rows are invisible to it.
    pub async fn system(&self) -> Result<Tx, StoreError> {
        self.begin(None, Plans::Fresh, None).await.map(|(tx, _)| tx)
    }

    /// As [`tenant`](Self::tenant), for what happens with every message and finds its few rows by key: plans are kept.
    pub async fn tenant_by_key(&self, tenant: TenantId) -> Result<Tx, StoreError> {
        self.begin(Some(tenant), Plans::Kept, None).await.map(|(tx, _)| tx)
    }

    /// As [`tenant_by_key`](Self::tenant_by_key), with a first statement that travels with BEGIN and is planned each time: a
    /// call of a function. Returns its rows, in the server's text format.
    pub async fn tenant_by_key_with(
        &self,
        tenant: TenantId,
        first: AssertSqlSafe<String>,
    ) -> Result<(Tx, Vec<PgRow>), StoreError> {
        self.begin(Some(tenant), Plans::Kept, Some(first.0)).await
    }

    /// As [`system`](Self::system), for what happens with every message and finds its few rows by key: plans are kept.
    pub async fn system_by_key(&self) -> Result<Tx, StoreError> {
        self.begin(None, Plans::Kept, None).await.map(|(tx, _)| tx)
    }

    /// As [`system_by_key`](Self::system_by_key), with a first statement and its rows as in
    /// [`tenant_by_key_with`](Self::tenant_by_key_with).
    pub(crate) async fn system_by_key_with(
        &self,
        first: &'static str,
    ) -> Result<(Tx, Vec<PgRow>), StoreError> {
        self.begin(None, Plans::Kept, Some(first.to_owned())).await
    }

    // INVARIANT: nobody can cancel a `begin`: the task goes on without its caller, and dropping the transaction closes its
    // connection. In sqlx 0.9 a cancelled `begin` returns a connection inside a transaction.
    async fn begin(
        &self,
        tenant: Option<TenantId>,
        plans: Plans,
        first: Option<String>,
    ) -> Result<(Tx, Vec<PgRow>), StoreError> {
        // One round trip. An id is hexadecimal digits and hyphens.
        let tenant = tenant.map(|id| format!("SET LOCAL app.tenant = '{id}';")).unwrap_or_default();
        let settings = self.pooled.as_deref().unwrap_or(plans.setting());
        let begin = format!("BEGIN; {tenant} {settings}{}", first.unwrap_or_default());
        let (pool, wakes) = (self.pool.clone(), Arc::clone(&self.wakes));
        detached(async move {
            let mut lost = 0;
            loop {
                let connection = pool.acquire().await.map_err(StoreError::while_connecting)?;
                let mut tx = Tx::of(connection, Arc::clone(&wakes));
                match sqlx::raw_sql(AssertSqlSafe(begin.clone())).fetch_all(&mut *tx).await {
                    Ok(rows) => return Ok((tx, rows)),
                    Err(error) => match error.into() {
                        // Lost while nobody used it, perhaps, and so may be the others of the pool. Nothing has begun.
                        StoreError::Unavailable(_) if lost < pool.options().get_max_connections() => {
                            lost += 1;
                        }
                        error => return Err(error),
                    },
                }
            }
        })
        .await
    }

    /// The newest migration the database has.
    pub async fn schema_version(&self) -> Result<i64, StoreError> {
        let mut tx = self.system().await?;
        let version = sqlx::query_scalar("SELECT platform.schema_version()").fetch_one(&mut *tx).await?;
        tx.rollback().await?;
        Ok(version)
    }

    /// Has those tables of this service analysed that have grown fourfold since they were last; returns how many.
    pub async fn refresh_statistics(&self) -> Result<i32, StoreError> {
        let mut tx = self.system().await?;
        let refreshed =
            sqlx::query_scalar("SELECT platform.refresh_statistics()").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(refreshed)
    }

    /// Returns once the database answers again, asking with growing pauses of at most five seconds.
    pub async fn wait_until_reachable(&self) {
        let mut pause = Duration::from_millis(50);
        while let Err(error) = self.ping().await {
            tracing::warn!(%error, "database not reachable");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Asks the database for a sign of life.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.system().await?.rollback().await
    }

    /// Closes every connection; later calls fail.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

// INVARIANT: what COMMIT acknowledged survives a crash. The attempt budget rests on it.
async fn acceptable(connection: &mut PgConnection, pooled: Option<&str>) -> Result<(), StoreError> {
    // A statement takes two messages to prepare and to run: in between, a pooler would give the server to somebody else.
    let begin = format!("BEGIN; {}", pooled.unwrap_or_default());
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *connection).await?;
    let (commit, fsync, replica, tls): (String, String, bool, Option<String>) = sqlx::query_as(
        "SELECT current_setting('synchronous_commit'), current_setting('fsync'), pg_is_in_recovery(),
                (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid())",
    )
    .fetch_one(&mut *connection)
    .await?;
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    match (commit.as_str(), fsync.as_str(), replica, tls.as_deref()) {
        ("off", ..) => Err(StoreError::NotDurable("synchronous_commit is off")),
        (_, "off", ..) => Err(StoreError::NotDurable("fsync is off")),
        (_, _, true, _) => Err(StoreError::NotDurable("the server is a replica in recovery")),
        // The driver cannot be told a lowest version. None: no TLS was asked for, or something in between ends it.
        (.., None | Some("TLSv1.3")) => Ok(()),
        (.., Some(version)) => Err(StoreError::OldTls(version.to_owned())),
    }
}

/// How the statements of a transaction are planned.
#[derive(Clone, Copy, Debug)]
enum Plans {
    /// Each time, for the values at hand.
    Fresh,
    /// Once per connection.
    Kept,
}

impl Plans {
    /// A kept plan must not be one that was made when a table was empty, and reads all of it ever after: while plans are
    /// kept, nothing but an index will do. That it is the right one is up to [`Db::refresh_statistics`].
    const fn setting(self) -> &'static str {
        match self {
            Self::Fresh => "",
            Self::Kept => "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off;",
        }
    }
}

async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable(format!("the database task ended: {error}"))),
    }
}

/// An open transaction. Dropped without [`Tx::commit`] or [`Tx::rollback`] it is undone together with its connection.
#[derive(Debug)]
#[must_use = "a transaction that is not committed is undone"]
pub struct Tx {
    connection: PoolConnection<Postgres>,
    /// It was seen to end: the connection may go back to the pool.
    ended: bool,
    /// The database's clock as it was read, and when that was by ours.
    clock: Option<(OffsetDateTime, Instant)>,
    wakes: Arc<Wakes>,
    /// It has written to the outbox.
    messages: bool,
    /// It has changed work.
    work: bool,
    /// What it sends, as far as that is not written yet.
    outgoing: Vec<outgoing::Outgoing>,
}

impl Tx {
    fn of(connection: PoolConnection<Postgres>, wakes: Arc<Wakes>) -> Self {
        let outgoing = Vec::new();
        Self { connection, ended: false, clock: None, wakes, messages: false, work: false, outgoing }
    }

    /// Makes everything durable; only `Ok` means that it happened.
    ///
    /// Nobody can cancel it: once begun it runs to its end. A transaction in which a statement failed is refused,
    /// even when the statement's error was not looked at.
    pub async fn commit(self) -> Result<(), StoreError> {
        // INVARIANT: Ok means committed. PostgreSQL answers COMMIT of a failed transaction with a ROLLBACK tag and no error;
        // any other statement fails there, and what follows it in the same message is not looked at.
        let wakes = (Arc::clone(&self.wakes), self.messages, self.work);
        self.end("SELECT 1; COMMIT").await?;
        let (wakes, messages, work) = wakes;
        if messages {
            wakes.relay.notify_one();
        }
        if work {
            wakes.dispatcher.notify_one();
        }
        Ok(())
    }

    /// It has written to an outbox: once committed, the relay looks at once.
    pub(crate) fn wrote_messages(&mut self) {
        self.messages = true;
    }

    /// It has changed work, or freed a place in a lane: once committed, the dispatcher looks at once.
    pub fn changed_work(&mut self) {
        self.work = true;
    }

    /// Undoes everything and gives the connection back at once.
    pub async fn rollback(mut self) -> Result<(), StoreError> {
        self.outgoing.clear();
        self.end("ROLLBACK").await
    }

    async fn end(self, statement: &'static str) -> Result<(), StoreError> {
        detached(async move {
            let mut tx = self; // all of it moves, not a copy of the mark
            tx.write_outgoing().await?;
            sqlx::raw_sql(statement).execute(&mut *tx.connection).await?;
            tx.ended = true;
            drop(tx);
            Ok(())
        })
        .await
    }

    /// Moves the transaction to another tenant: for the few that visit several in turn.
    pub async fn set_tenant(&mut self, tenant: TenantId) -> Result<(), StoreError> {
        sqlx::query("SELECT set_config('app.tenant', $1, true)")
            .bind(tenant.to_string())
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    /// The database's clock now, not at the start of the transaction: read once, and counted on from there.
    pub async fn clock(&mut self) -> Result<OffsetDateTime, StoreError> {
        let (read, at) = if let Some(clock) = self.clock {
            clock
        } else {
            let now = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *self.connection).await?;
            *self.clock.insert((now, Instant::now()))
        };
        Ok(read + at.elapsed())
    }

    /// A statement has read `clock_timestamp()` beside something else: [`Tx::clock`] need not ask.
    pub fn clock_was_read(&mut self, now: OffsetDateTime) {
        self.clock = Some((now, Instant::now()));
    }
}

impl Deref for Tx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

// INVARIANT: no connection goes back to the pool inside a transaction.
impl Drop for Tx {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}

/// Reads a text column into a type of the domain; a value it does not know is [`StoreError::Corrupt`].
pub fn parse<T: FromStr>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt(format!("column {column} has an unknown value")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database remembers the checksum of each migration it has, and refuses all others when one has changed.
    #[test]
    fn every_migration_is_the_one_that_was_released() {
        let released = include_str!("../../../migrations/released.sha384");
        let released: Vec<(&str, i64)> = released
            .lines()
            .map(|line| {
                let (checksum, file) = line.split_once("  ").unwrap();
                (checksum, file.split_once('_').unwrap().0.parse().unwrap())
            })
            .collect();
        let built: Vec<_> = MIGRATOR.iter().map(|m| (hex::encode(&m.checksum), m.version)).collect();
        let built: Vec<_> = built.iter().map(|(checksum, version)| (checksum.as_str(), *version)).collect();
        assert_eq!(built, released, "see migrations/README.md: what was released never changes");
    }
}
