//! What makes an exposure's turn come, or takes it back: a person's request, or a change of its account.

use async_trait::async_trait;
use shared::{
    db::Db,
    id::{AccountId, ExposureId, TenantId, ValidationId},
    queue::{Delivery, Handler, HandlerError, Outcome},
    triage::Cause,
    wire::events::{AccountsChanged, ValidationRequested},
    work,
};

use crate::{
    VALIDATE,
    conclude::due_now,
    message,
    store::requests::{self as store, Reopened, State},
};

const PAGE: i64 = 1000;

/// Handles `validation.requested`: a request is new, or was paused, resumed or cancelled.
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
        // Page by page, each in its own transaction: what is repeated after a crash finds its work done.
        let mut after: Option<ExposureId> = None;
        loop {
            let mut tx = self.0.tenant(tenant).await?;
            // INVARIANT: the state is read under the request's lock, by each page. Of two messages that cross, the
            // later one finds all pages, so that what is resumed never stays withheld.
            let Some(request) = store::locked(&mut tx, validation).await? else {
                message::finish(delivery, tx).await?;
                return Ok(Outcome::Done);
            };
            let items = store::items(&mut tx, validation, after, PAGE).await?;
            let Some(last) = items.last() else {
                message::finish(delivery, tx).await?;
                return Ok(Outcome::Done);
            };
            after = Some(*last);
            match request.state {
                State::Running => {
                    let waiting = store::take_up(&mut tx, tenant, &request, &items).await?;
                    work::schedule_many(&mut tx, &due(tenant, &waiting, Cause::Person)).await?;
                }
                State::Paused => {
                    let only = store::only_asked_by(&mut tx, tenant, &request, &items).await?;
                    work::cancel(&mut tx, tenant, VALIDATE, &only).await?;
                }
                State::Cancelled => {
                    let (back, stay) = store::give_back(&mut tx, tenant, &request, &items).await?;
                    work::cancel(&mut tx, tenant, VALIDATE, &back).await?;
                    // A rule or another request wants them too.
                    work::schedule_many(&mut tx, &due(tenant, &stay, Cause::Change)).await?;
                }
            }
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
        work::schedule_many(&mut tx, &due(tenant, &reopened, Cause::Change)).await?;
        message::finish(delivery, tx).await?;
        Ok(Outcome::Done)
    }
}

fn due(tenant: TenantId, reopened: &[Reopened], cause: Cause) -> Vec<work::NewWork> {
    reopened
        .iter()
        .map(|r| work::NewWork {
            due_at: r.deferred_until,
            ..due_now(tenant, &r.directory, r.exposure.uuid(), r.place.rank(cause))
        })
        .collect()
}
