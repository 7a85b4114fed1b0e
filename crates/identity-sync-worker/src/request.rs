//! A request to sync: it becomes a run, or joins the one that is going on. The work itself is a row with a due time,
//! driven by [`crate::drive`].

use shared::{
    audit::{self, Actor, Event, Outcome as Become, names},
    db::{StoreError, Tx},
    id::{CauseId, IntegrationId, SyncRunId, TenantId, WorkId},
    integration_store::{self, Integration, Status},
    outbox::Topic,
    queue::{Delivery, HandlerError, Outcome},
    wire::events,
    work::{self, NewWork, WorkRow},
};

use crate::{NAME, drive::Sync, store_directories as directories, store_runs as store};

/// Kind of the one work row each integration has.
pub(crate) const WORK: &str = "sync";
pub(crate) const ASKED: i16 = 1;

/// A message of topic `sync.requested`, understood.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// Somebody wants a run.
    Start { tenant: TenantId, integration: IntegrationId, run: SyncRunId, full: bool, cause: CauseId },
    /// The dispatcher found the integration's work due.
    Due { tenant: TenantId, integration: IntegrationId, work: WorkId },
}

impl Request {
    /// Reads a message; one that names nothing usable is poison.
    pub fn read(message: &events::SyncRequested) -> Result<Self, HandlerError> {
        let events::SyncRequested { tenant_id, integration_id, run_id, full, cause_id, work_id } = message;
        let (tenant, integration) = (id("tenant_id", tenant_id)?, id("integration_id", integration_id)?);
        if !work_id.is_empty() {
            return Ok(Self::Due { tenant, integration, work: id("work_id", work_id)? });
        }
        let run: SyncRunId = id("run_id", run_id)?;
        // A request without a cause is its own.
        let cause = if cause_id.is_empty() { CauseId(run.uuid()) } else { id("cause_id", cause_id)? };
        Ok(Self::Start { tenant, integration, run, full: *full, cause })
    }
}

fn id<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, HandlerError> {
    text.parse()
        .map_err(|_| HandlerError::Poison(format!("sync.requested: field {name} is missing or malformed")))
}

/// The message of a due work row.
pub(crate) fn message_of(row: &WorkRow) -> (Topic, Vec<u8>) {
    let message = events::SyncRequested {
        tenant_id: row.tenant.to_string(),
        integration_id: row.subject.to_string(),
        work_id: row.work_id.to_string(),
        ..events::SyncRequested::default()
    };
    (Topic::SyncRequested, prost::Message::encode_to_vec(&message))
}

/// The event of a run's start.
pub(crate) fn started(integration: &Integration, run: SyncRunId, full: bool, cause: CauseId) -> Event {
    let message = if full { "a full sync started" } else { "a sync of changes started" };
    Event::new(Some(integration.tenant), names::SYNC_STARTED, Actor::Service(NAME), Become::Info, message)
        .integration(integration.id)
        .cause(cause)
        .object("sync_run", run)
}

impl Sync {
    /// Registers a run. The same id is the same run, however often it is asked for.
    pub(crate) async fn start(
        &self,
        delivery: &Delivery,
        tenant: TenantId,
        id: IntegrationId,
        run: SyncRunId,
        full: bool,
        cause: CauseId,
    ) -> Result<Outcome, HandlerError> {
        let mut tx = self.db.tenant(tenant).await?;
        let Some(integration) = integration_store::integration(&mut tx, id).await? else {
            tx.rollback().await?;
            return self.forget(delivery, tenant, id, cause).await;
        };
        if !delivery.done(&mut tx).await? {
            tx.rollback().await?;
            return Ok(Outcome::Done);
        }
        register(&mut tx, &integration, run, full, cause).await?;
        tx.commit().await?;
        Ok(Outcome::Done)
    }
}

async fn register(
    tx: &mut Tx,
    integration: &Integration,
    run: SyncRunId,
    full: bool,
    cause: CauseId,
) -> Result<(), StoreError> {
    let (tenant, id) = (integration.tenant, integration.id);
    let directory = directories::lock_directory(tx, tenant, id, integration.provider).await?;
    if store::exists(tx, tenant, run).await? {
        return Ok(());
    }
    if integration.status == Status::Disabled {
        let refused = Err("the integration is disabled");
        return store::record_ended(tx, tenant, id, run, full, cause, refused).await;
    }
    let full = full || directory.changes_cursor.is_none();
    match store::running(tx, tenant, id).await? {
        // A full run covers what the changes would have brought; their place to go on from is not lost.
        Some(going) if full && !going.full => store::join(tx, tenant, going.id, run).await?,
        Some(going) => store::record_ended(tx, tenant, id, run, full, cause, Ok(going.id)).await?,
        None => {}
    }
    if !store::exists(tx, tenant, run).await? {
        store::start(tx, tenant, id, run, full, cause).await?;
        audit::record(tx, &started(integration, run, full, cause)).await?;
    }
    let work = NewWork {
        work_id: WorkId::new(),
        tenant,
        directory: directory.id.unwrap_or_else(|| id.to_string()),
        kind: WORK,
        subject: id.uuid(),
        priority: ASKED,
        due_at: None,
    };
    work::schedule(tx, &work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dispatchers_message_leads_back_to_its_row() {
        let row = WorkRow {
            work_id: WorkId::new(),
            tenant: TenantId::new(),
            kind: WORK.into(),
            subject: IntegrationId::new().uuid(),
        };
        let (topic, body) = message_of(&row);
        assert_eq!(topic, Topic::SyncRequested);
        let message = <events::SyncRequested as prost::Message>::decode(body.as_slice()).unwrap();
        let Request::Due { tenant, integration, work } = Request::read(&message).unwrap() else {
            panic!("not due")
        };
        assert_eq!((tenant, integration.uuid(), work), (row.tenant, row.subject, row.work_id));
    }

    #[test]
    fn a_request_without_a_run_is_poison() {
        let message = events::SyncRequested {
            tenant_id: TenantId::new().to_string(),
            integration_id: IntegrationId::new().to_string(),
            ..events::SyncRequested::default()
        };
        assert!(matches!(Request::read(&message), Err(HandlerError::Poison(_))));
    }
}
