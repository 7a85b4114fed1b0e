//! One lifecycle for every service: configuration, telemetry, readiness, tasks, an honest end.
//!
//! ```ignore
//! fn main() -> ExitCode {
//!     shared::service::main("audit-writer", audit_writer::run)
//! }
//!
//! pub async fn run(config: Config, stop: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<ExitCode> {
//!     let service = Service::start("audit-writer", config.common.clone(), stop).await?;
//!     queue::spawn_batch_consumer(&service, Topic::AuditRecorded, 400, handler, 200, linger);
//!     service.spawn_relay(&["outbox"]);
//!     grpc::Server::new().add(search).listen(&service, &config.common.grpc, config.common.tls.as_ref()).await?;
//!     service.run().await
//! }
//! ```

mod check;
mod config;
mod entry;
mod http;
mod readiness;
pub mod telemetry;

use std::{
    future::Future,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures::FutureExt;
use rustls::ClientConfig;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    config::{
        Common, Configuration, Faults, HttpConfig, LifecycleConfig, ListenConfig, PeerConfig, TlsFiles, load,
    },
    entry::{main, signals},
    readiness::Readiness,
    telemetry::TelemetryConfig,
};
use crate::{
    db::{self, Db, StoreError},
    inbox,
    queue::Publisher,
    relay::Relay,
    tls::{self, Reloaded},
};

/// How often the tables of a service are looked at for growth.
const STATISTICS_EVERY: Duration = Duration::from_secs(10);

/// Asked to stop before it was up.
#[derive(Debug, thiserror::Error)]
#[error("asked to stop before the service was up")]
pub struct Stopped;

/// A running service: what its tasks share, and how they end together.
#[derive(Clone, Debug)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    common: Common,
    db: Db,
    publisher: Publisher,
    readiness: Readiness,
    http: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    failed: AtomicBool,
    _broker: Option<Reloaded<ClientConfig>>,
}

impl Service {
    /// Opens the plain port, waits for the database, prepares the inbox, starts the publisher.
    ///
    /// A database or broker that is away is waited for: services may be started in any order. What a wait cannot
    /// repair, a wrong password or an undurable server, is an error.
    pub async fn start(
        name: &'static str,
        common: Common,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        Self::start_with_routes(name, common, axum::Router::new(), stop).await
    }

    /// [`Service::start`], with further routes on the plain port; they answer before the database does.
    pub async fn start_with_routes(
        name: &'static str,
        common: Common,
        routes: axum::Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let token = CancellationToken::new();
        tokio::spawn({
            let token = token.clone();
            async move {
                tokio::select! {
                    () = stop => token.cancel(),
                    () = token.cancelled() => {}
                }
            }
        });
        let readiness = Readiness::new(token.clone());
        let http = http::serve(common.http.listen, readiness.clone(), routes, token.clone()).await?;
        tracing::info!(service = name, http = %http, schema = db::required_schema(), "starting");
        let db = tokio::select! {
            () = token.cancelled() => return Err(Stopped.into()),
            db = database(&common) => db?,
        };
        // Connections read these files themselves; looked at here, they show when they expire and when they break.
        let broker = if common.broker.tls {
            Some(tls::client("broker", common.broker.certificates(), &[]).await.context("common.broker")?)
        } else {
            None
        };
        let publisher = Publisher::new(name);
        let service = Self(Arc::new(Inner {
            name,
            db,
            publisher: publisher.clone(),
            readiness,
            http,
            stop: token.clone(),
            tasks: TaskTracker::new(),
            failed: AtomicBool::new(false),
            _broker: broker,
            common,
        }));
        service.watch_database();
        service.watch_link(publisher.state());
        service.spawn("publisher", publisher.run(service.common().broker.clone(), token));
        service.prepare_inbox().await?;
        service.spawn("inbox maintenance", service.clone().maintain_inbox());
        service.spawn("statistics", service.clone().refresh_statistics());
        service.0.readiness.started();
        Ok(service)
    }

    /// The service's name, as logs and other services know it.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The configuration every service has.
    pub fn common(&self) -> &Common {
        &self.0.common
    }

    /// The database, as this service's role.
    pub fn db(&self) -> &Db {
        &self.0.db
    }

    /// The connection that publishes.
    pub fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// Whether the service can do its job now.
    pub fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    /// Address of the plain port with `/livez`, `/readyz` and `/metrics`.
    pub fn http_address(&self) -> SocketAddr {
        self.0.http
    }

    /// Cancelled when the service is to stop; every task must end soon after.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Runs a task for the life of the service. One that ends before the service was asked to stop, or panics,
    /// takes the process down: nobody runs half a service.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let service = self.clone();
        self.0.tasks.spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            let early = !service.0.stop.is_cancelled();
            match ended {
                Ok(Ok(())) if !early => return,
                Ok(Ok(())) => tracing::error!(task = name, "task ended before the service was asked to stop"),
                Ok(Err(error)) => tracing::error!(task = name, error = format!("{error:#}"), "task failed"),
                Err(_) => tracing::error!(task = name, "task panicked"),
            }
            service.0.failed.store(true, Ordering::Relaxed);
            service.0.stop.cancel();
        });
    }

    /// Runs a short piece of work that a stop waits for.
    pub fn track(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(work);
    }

    /// Sends what these outboxes hold.
    pub fn spawn_relay(&self, tables: &'static [&'static str]) {
        let relay = Relay::new(self.db().clone(), self.publisher().clone(), tables);
        self.spawn("relay", relay.run(self.stop_token()));
    }

    /// Readiness falls when the connection was away for longer than the configuration allows.
    pub(crate) fn watch_link(&self, link: crate::queue::LinkState) {
        let patience = Duration::from_secs(self.common().broker.unready_after_seconds);
        self.0.readiness.add(move || link.check(patience));
    }

    /// Serves until asked to stop, or until a task ended early; then waits for the tasks, but not beyond the grace
    /// period. Success only when it was asked and everything ended in time.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Inner { stop, tasks, db, .. } = &*self.0;
        stop.cancelled().await;
        let grace = Duration::from_secs(self.common().lifecycle.grace_seconds);
        tracing::info!(service = self.name(), tasks = tasks.len(), "stopping");
        tasks.close();
        let drained = tokio::time::timeout(grace, tasks.wait()).await.is_ok();
        let closed = tokio::time::timeout(Duration::from_secs(2), db.close()).await.is_ok();
        let failed = self.0.failed.load(Ordering::Relaxed);
        if drained && !failed {
            tracing::info!(service = self.name(), closed, "stopped");
            Ok(ExitCode::SUCCESS)
        } else {
            tracing::error!(
                service = self.name(),
                drained,
                failed,
                left = tasks.len(),
                "stopped with a failure"
            );
            Ok(ExitCode::FAILURE)
        }
    }

    fn watch_database(&self) {
        let state = Arc::new(std::sync::Mutex::new(Err("database: not asked yet".to_owned())));
        let (db, stop, shared) = (self.db().clone(), self.stop_token(), Arc::clone(&state));
        self.spawn("database watch", async move {
            loop {
                let answer = tokio::time::timeout(Duration::from_secs(5), db.schema_version()).await;
                let result = match answer {
                    Ok(Ok(version)) if version >= db::required_schema() => Ok(()),
                    Ok(Ok(version)) => Err(format!(
                        "database: schema is at {version}, this build needs {}; run the migrations",
                        db::required_schema()
                    )),
                    Ok(Err(error)) => Err(format!("database: {error}")),
                    Err(_) => Err("database: no answer within 5 s".to_owned()),
                };
                let pause = if result.is_ok() { Duration::from_secs(2) } else { Duration::from_millis(250) };
                *state.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = result;
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
        self.0
            .readiness
            .add(move || shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone());
    }

    // Consumers need the partitions of today. A database without our migrations is waited for, visibly not ready.
    async fn prepare_inbox(&self) -> anyhow::Result<()> {
        loop {
            match inbox::maintain(self.db()).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(%error, "inbox not prepared; are the migrations applied?"),
            }
            tokio::select! {
                () = self.0.stop.cancelled() => return Err(Stopped.into()),
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    async fn maintain_inbox(self) -> anyhow::Result<()> {
        loop {
            match inbox::parked(self.db()).await {
                #[expect(clippy::cast_precision_loss, reason = "a gauge")]
                Ok(parked) => metrics::gauge!("parapet_inbox_parked").set(parked as f64),
                Err(error) => tracing::warn!(%error, "parked messages not counted"),
            }
            tokio::select! {
                () = self.0.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_mins(10)) => {}
            }
            if let Err(error) = inbox::maintain(self.db()).await {
                tracing::warn!(%error, "inbox maintenance failed; it is tried again");
            }
        }
    }

    /// Plans are kept, and made from what the server knows of its tables: it must notice how they grow.
    async fn refresh_statistics(self) -> anyhow::Result<()> {
        loop {
            match self.db().refresh_statistics().await {
                Ok(0) => {}
                Ok(tables) => tracing::debug!(tables, "tables have grown, the planner's statistics are new"),
                Err(error) => tracing::warn!(%error, "the planner's statistics are as they were"),
            }
            tokio::select! {
                () = self.0.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(STATISTICS_EVERY) => {}
            }
        }
    }
}

async fn database(common: &Common) -> anyhow::Result<Db> {
    let mut pause = Duration::from_millis(100);
    loop {
        match Db::connect(&common.database).await {
            Ok(db) => return Ok(db),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "database not reachable yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            Err(error @ (StoreError::NotDurable(_) | StoreError::OldTls(_))) => {
                return Err(error).context("this database is refused");
            }
            Err(error) => return Err(error).context("cannot connect to the database"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_shared_between_tasks() {
        fn shared<T: Send + Sync + Clone + 'static>() {}
        shared::<Service>();
    }
}
