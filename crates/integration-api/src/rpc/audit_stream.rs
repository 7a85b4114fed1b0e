//! What AuditService streams: exports, and the log as it grows.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use shared::{
    audit::{self, Event, Outcome, names},
    db::{Db, StoreError},
    id::CauseId,
    wire::{
        internal::{ExportRequest, ExportResponse, TailRequest},
        v1,
    },
};
use tonic::{Status, Streaming};

use super::audit as service;
use crate::{auth::Caller, error::ApiError, peers::Peers};

/// What a caller of ExportAuditEvents receives.
pub(super) type Exported = Pin<Box<dyn Stream<Item = Result<v1::ExportAuditEventsResponse, Status>> + Send>>;
/// What a caller of TailAuditEvents receives.
pub(super) type Tailed = Pin<Box<dyn Stream<Item = Result<v1::TailAuditEventsResponse, Status>> + Send>>;

const INTERRUPTED: &str = "the audit log was interrupted; what came so far is not complete";

/// Exports a part of a chain.
///
/// INVARIANT (I4): nothing of the log is handed out before it is recorded that it will be.
pub(super) async fn export(
    db: &Db,
    peers: &Peers,
    caller: &Caller,
    request: v1::ExportAuditEventsRequest,
) -> Result<Exported, ApiError> {
    let v1::ExportAuditEventsRequest { format, from, until, installation } = request;
    let tenant_id = service::chain(caller, installation)?;
    let format = match v1::AuditExportFormat::try_from(format) {
        Ok(v1::AuditExportFormat::Ndjson) => "ndjson",
        Ok(v1::AuditExportFormat::Csv) => "csv",
        Ok(v1::AuditExportFormat::Ocsf) => "ocsf",
        Ok(v1::AuditExportFormat::Unspecified) | Err(_) => {
            return Err(ApiError::field("format", "give a known format"));
        }
    };
    let tenant = if installation { None } else { Some(caller.tenant()?) };
    let message = "events of the audit log are about to be exported";
    let intent = Event::new(tenant, names::AUDIT_EXPORTED, caller.actor(), Outcome::Intent, message)
        .detail("format", format);
    let cause = record(db, &intent).await?;
    let ending = Ending { db: db.clone(), event: Some(intent.cause(cause)), last: 0, events: 0 };
    let asked = ExportRequest { tenant_id, format: format.to_owned(), from, until };
    let pieces = peers.export(asked).await?;
    let export = stream::try_unfold((pieces, ending), |(mut pieces, mut ending)| async move {
        let Some(piece) = next(&mut pieces).await? else {
            ending.complete().await?;
            return Ok(None);
        };
        ending.events += piece.events;
        ending.last = ending.last.max(piece.last);
        Ok::<_, Status>(Some((v1::ExportAuditEventsResponse { data: piece.data }, (pieces, ending))))
    });
    Ok(Box::pin(export))
}

async fn next(pieces: &mut Streaming<ExportResponse>) -> Result<Option<ExportResponse>, Status> {
    pieces.message().await.map_err(|status| {
        tracing::warn!(code = ?status.code(), error = status.message(), "an export of the audit log broke off");
        Status::unavailable(INTERRUPTED)
    })
}

/// Records how an export ended: that it is complete, or, when it is dropped before, that it is not.
struct Ending {
    db: Db,
    event: Option<Event>,
    last: i64,
    events: i64,
}

impl Ending {
    fn event(&mut self, outcome: Outcome, message: &str) -> Option<Event> {
        let (events, last) = (self.events, self.last);
        let mut event = self.event.take()?.detail("events", events);
        if events > 0 {
            event = event.detail("first", last - events + 1).detail("last", last);
        }
        event.outcome = outcome;
        message.clone_into(&mut event.message);
        Some(event)
    }

    async fn complete(&mut self) -> Result<(), ApiError> {
        let Some(event) = self.event(Outcome::Success, "events of the audit log were exported") else {
            return Ok(());
        };
        record(&self.db, &event).await?;
        Ok(())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(event) = self.event(Outcome::Failure, "an export of the audit log was broken off") else {
            return;
        };
        let db = self.db.clone();
        tokio::spawn(async move {
            if let Err(error) = record(&db, &event).await {
                tracing::warn!(%error, "the end of an export is not recorded; its intent is");
            }
        });
    }
}

/// Follows a chain.
pub(super) async fn tail(
    db: &Db,
    peers: &Peers,
    caller: &Caller,
    request: &v1::TailAuditEventsRequest,
) -> Result<Tailed, ApiError> {
    let v1::TailAuditEventsRequest { after_sequence, installation } = *request;
    let tenant_id = service::chain(caller, installation)?;
    let tenant = if installation { None } else { Some(caller.tenant()?) };
    let mut events = peers.tail(TailRequest { tenant_id, after_sequence }).await?;
    let begin = events.message().await.map_err(|_| ApiError::Unavailable(INTERRUPTED))?;
    let after = begin.map_or(0, |begin| begin.after_sequence);
    let message = "somebody follows the audit log as it grows";
    let began = Event::new(tenant, names::AUDIT_TAILED, caller.actor(), Outcome::Success, message)
        .detail("after", after);
    record(db, &began).await?;
    Ok(Box::pin(events.map(|some| match some {
        Ok(some) => {
            Ok(v1::TailAuditEventsResponse { events: some.events.into_iter().map(service::event).collect() })
        }
        Err(_) => Err(Status::unavailable(INTERRUPTED)),
    })))
}

async fn record(db: &Db, event: &Event) -> Result<CauseId, StoreError> {
    let mut tx = match event.tenant {
        Some(tenant) => db.tenant(tenant).await?,
        None => db.system().await?,
    };
    let id = audit::record(&mut tx, event).await?;
    tx.commit().await?;
    Ok(CauseId(id.uuid()))
}
