//! `mitigation.requested`: a person's request or a valid verdict becomes mitigations that are planned, held or refused.

use async_trait::async_trait;
use shared::{
    db::{Db, StoreError, Tx},
    failpoint::reach,
    id::{CauseId, ExposureId, MitigationRequestId, TenantId},
    queue::{Delivery, Handler, HandlerError, Outcome},
    wire::events::MitigationRequested,
};
use uuid::Uuid;

use crate::{
    planner::{self, From, Origin, World},
    store_brake, store_requests, undo,
};

/// Accounts of a large request that are planned in one transaction.
const AT_ONCE: i64 = 500;

/// Handles requests.
pub struct Intake {
    db: Db,
}

#[async_trait]
impl Handler for Intake {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let message: MitigationRequested = delivery.decode()?;
        let tenant: TenantId = id(&message.tenant_id)?;
        let cause = optional(&message.cause_id)?;
        match (optional(&message.request_id)?, optional(&message.exposure_id)?) {
            (Some(request), None) => self.requested(delivery, tenant, request, cause).await?,
            (None, Some(exposure)) => self.proven(delivery, tenant, exposure, cause).await?,
            _ => return Err(HandlerError::Poison("names neither a request nor an exposure, or both".into())),
        }
        Ok(Outcome::Done)
    }
}

pub(crate) fn id<T: std::str::FromStr>(text: &str) -> Result<T, HandlerError> {
    text.parse().map_err(|_| HandlerError::Poison("an id of the message is malformed".into()))
}

fn optional<T: std::str::FromStr>(text: &str) -> Result<Option<T>, HandlerError> {
    if text.is_empty() { Ok(None) } else { id(text).map(Some) }
}

impl Intake {
    /// A handler.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    async fn requested(
        &self,
        delivery: &Delivery,
        tenant: TenantId,
        id: MitigationRequestId,
        cause: Option<CauseId>,
    ) -> Result<(), HandlerError> {
        let mut tx = self.db.tenant(tenant).await?;
        let Some(request) = store_requests::request(&mut tx, id).await? else {
            tx.rollback().await?;
            let why = "names a request that is not there, or a release of an older version: approve what is held instead";
            return Err(HandlerError::Poison(why.into()));
        };
        if request.bulk {
            tx.rollback().await?;
            return self.bulk(delivery, Origin { tenant, from: From::Request(id, request), cause }, id).await;
        }
        if let Some(undo) = &request.undo {
            undo::plan(&mut tx, tenant, id, &request, undo, cause).await?;
        } else {
            let world = World::read(&mut tx, tenant).await?;
            let protected = &world.policy.policy.protected;
            let targets =
                store_requests::targets(&mut tx, &request.accounts, &request.exposures, protected).await?;
            let origin = Origin { tenant, from: From::Request(id, request), cause };
            planner::plan(&mut tx, &world, &origin, &targets).await?;
        }
        finish(delivery, tx).await
    }

    /// Plans a large request piece by piece. Whatever was planned when it is interrupted is found planned the next time.
    async fn bulk(
        &self,
        delivery: &Delivery,
        origin: Origin,
        request: MitigationRequestId,
    ) -> Result<(), HandlerError> {
        let mut after = Uuid::nil();
        loop {
            let mut tx = self.db.tenant(origin.tenant).await?;
            let accounts = store_requests::items(&mut tx, request, after, AT_ONCE).await?;
            let Some(last) = accounts.last() else { return finish(delivery, tx).await };
            after = *last;
            let world = World::read(&mut tx, origin.tenant).await?;
            let targets =
                store_requests::targets(&mut tx, &accounts, &[], &world.policy.policy.protected).await?;
            planner::plan(&mut tx, &world, &origin, &targets).await?;
            tx.commit().await?;
        }
    }

    async fn proven(
        &self,
        delivery: &Delivery,
        tenant: TenantId,
        exposure: ExposureId,
        cause: Option<CauseId>,
    ) -> Result<(), HandlerError> {
        let mut tx = self.db.tenant(tenant).await?;
        // INVARIANT: nothing is mitigated automatically without a valid verdict, read here and now (design §11).
        let Some(proof) = store_requests::proof(&mut tx, exposure).await? else {
            tracing::info!(exposure.id = %exposure, "no valid verdict, nothing to mitigate");
            return finish(delivery, tx).await;
        };
        store_brake::lock_brake(&mut tx, tenant).await?;
        let world = World::read(&mut tx, tenant).await?;
        if world.policy.policy.verdicts.contains(&proof.kind) {
            let protected = &world.policy.policy.protected;
            let mut targets = store_requests::targets(&mut tx, &[], &[exposure.uuid()], protected).await?;
            targets.retain(|target| !proof.is_outdated_by(target.password_changed_at));
            let origin = Origin { tenant, from: From::Verdict(proof), cause };
            planner::plan(&mut tx, &world, &origin, &targets).await?;
        }
        finish(delivery, tx).await
    }
}

/// Commits what was planned, unless the message was handled elsewhere meanwhile.
async fn finish(delivery: &Delivery, mut tx: Tx) -> Result<(), HandlerError> {
    let first: Result<bool, StoreError> = delivery.done(&mut tx).await;
    if first? {
        reach("planning");
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok(())
}
