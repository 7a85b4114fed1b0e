//! What makes an exposure's turn come: a person's request, or a change of its account.

use async_trait::async_trait;
use shared::{
    db::Db,
    id::{AccountId, ExposureId, TenantId, ValidationId},
    queue::{Delivery, Handler, HandlerError, Outcome},
    wire::events::{AccountsChanged, ValidationRequested},
    work,
};

use crate::{
    conclude::due_now,
    message,
    store::requests::{self as store, Reopened},
};

/// What people ask for comes first.
const BY_PERSON: i16 = 10;
/// What a changed account may decide comes last; mostly it costs no attempt.
const BY_CHANGE: i16 = 30;
const PAGE: i64 = 1000;

/// Handles `validation.requested`.
#[derive(Debug)]
pub struct Requests(pub Db);

/// Handles `accounts.changed`.
#[derive(Debug)]
pub struct Accounts(pub Db);

#[async_trait]
impl Handler for Requests {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let event: ValidationRequested = delivery.decode()?;
        let tenant = message::required::<TenantId>("tenant_id", &event.tenant_id)?;
        let validation = message::required::<ValidationId>("validation_id", &event.validation_id)?;
        let mut tx = self.0.tenant(tenant).await?;
        let force = store::force(&mut tx, validation).await?.unwrap_or(false);
        tx.rollback().await?;
        // Page by page, each in its own transaction. A page that is repeated after a crash finds its exposures waiting.
        let mut after: Option<ExposureId> = None;
        loop {
            let mut tx = self.0.tenant(tenant).await?;
            let items = store::items(&mut tx, validation, after, PAGE).await?;
            let Some(last) = items.last() else {
                message::finish(delivery, tx).await?;
                return Ok(Outcome::Done);
            };
            after = Some(*last);
            let reopened = store::request(&mut tx, tenant, &items, force).await?;
            work::schedule_many(&mut tx, &due(tenant, &reopened, BY_PERSON)).await?;
            tx.commit().await?;
        }
    }
}

#[async_trait]
impl Handler for Accounts {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let event: AccountsChanged = delivery.decode()?;
        let tenant = message::required::<TenantId>("tenant_id", &event.tenant_id)?;
        let accounts = event
            .account_ids
            .iter()
            .map(|id| message::required::<AccountId>("account_ids", id))
            .collect::<Result<Vec<_>, _>>()?;
        let mut tx = self.0.tenant(tenant).await?;
        let reopened = store::affected(&mut tx, tenant, &accounts).await?;
        work::schedule_many(&mut tx, &due(tenant, &reopened, BY_CHANGE)).await?;
        message::finish(delivery, tx).await?;
        Ok(Outcome::Done)
    }
}

fn due(tenant: TenantId, reopened: &[Reopened], priority: i16) -> Vec<work::NewWork> {
    reopened.iter().map(|r| due_now(tenant, &r.directory, r.exposure.uuid(), priority)).collect()
}
