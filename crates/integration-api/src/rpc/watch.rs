//! WatchSync: the progress of a run as a stream.

use std::{pin::Pin, time::Duration};

use futures::{Stream, stream};
use shared::{
    db::Db,
    id::{IntegrationId, SyncRunId, TenantId},
    wire::v1,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::integration_view;
use crate::{
    error::ApiError,
    store::syncs::{self, Run},
};

const PAUSE: Duration = Duration::from_millis(500);
/// A queued run that no worker takes up, and a run without progress, are not watched for ever.
const PATIENCE: Duration = Duration::from_hours(1);

/// What a caller receives.
pub type Progress = Pin<Box<dyn Stream<Item = Result<v1::WatchSyncResponse, Status>> + Send>>;

struct Watch {
    db: Db,
    stop: CancellationToken,
    tenant: TenantId,
    integration: IntegrationId,
    run: SyncRunId,
    shown: Option<v1::SyncProgress>,
    ended: bool,
}

/// Streams a run until it ends.
pub(super) fn stream(
    db: Db,
    stop: CancellationToken,
    tenant: TenantId,
    integration: IntegrationId,
    run: SyncRunId,
) -> Progress {
    let watch = Watch { db, stop, tenant, integration, run, shown: None, ended: false };
    Box::pin(stream::try_unfold(watch, |mut watch| async move {
        if watch.ended {
            return Ok(None);
        }
        let progress = watch.next().await?;
        Ok(progress.map(|progress| (v1::WatchSyncResponse { progress: Some(progress) }, watch)))
    }))
}

impl Watch {
    async fn next(&mut self) -> Result<Option<v1::SyncProgress>, Status> {
        let began = std::time::Instant::now();
        loop {
            let run = self.read().await?;
            let progress = run.as_ref().map_or_else(
                || v1::SyncProgress {
                    run_id: self.run.to_string(),
                    phase: v1::SyncPhase::Queued.into(),
                    ..Default::default()
                },
                integration_view::progress,
            );
            self.ended = run.as_ref().is_some_and(|r| r.finished_at.is_some());
            if self.shown.as_ref() != Some(&progress) {
                self.shown = Some(progress.clone());
                return Ok(Some(progress));
            }
            if began.elapsed() > PATIENCE {
                return Ok(None);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(ApiError::Unavailable("the service is stopping").into()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn read(&self) -> Result<Option<Run>, ApiError> {
        let mut tx = self.db.tenant(self.tenant).await?;
        let run = syncs::run(&mut tx, self.tenant, self.run).await?;
        tx.rollback().await?;
        if run.as_ref().is_some_and(|r| r.integration_id != self.integration) {
            return Err(ApiError::NotFound("run of this integration"));
        }
        Ok(run)
    }
}
