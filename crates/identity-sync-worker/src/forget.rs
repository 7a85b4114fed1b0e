//! What becomes of a deleted integration here: its client keys are destroyed at once, its accounts are removed and their
//! identifiers no longer match, page by page. Its runs and audit events stay.

use shared::{
    audit::{self, Actor, Event, Outcome as Became, names},
    db::{StoreError, Tx},
    id::{AccountId, CauseId, IntegrationId, TenantId},
    queue::{Delivery, HandlerError, Outcome},
    work,
};

use crate::{
    NAME,
    drive::Sync,
    removals::{self, Gone},
    request::WORK,
    store_accounts, store_client_keys, store_directories as directories, store_keys, store_members,
    store_removals,
    store_runs::{self as store, End},
};

/// Accounts removed in one transaction.
const PAGE: i64 = 500;

impl Sync {
    /// Lets go of everything held for an integration that is gone. Repeating it is harmless, so the message is done
    /// after the last page.
    pub(crate) async fn forget(
        &self,
        delivery: &Delivery,
        tenant: TenantId,
        id: IntegrationId,
        cause: CauseId,
    ) -> Result<Outcome, HandlerError> {
        let mut tx = self.db.tenant(tenant).await?;
        destroy_keys(&mut tx, tenant, id, cause).await?;
        if let Some(run) = store::running(&mut tx, tenant, id).await? {
            store::end(&mut tx, tenant, run.id, End::Failed, "the integration was deleted").await?;
        }
        work::cancel(&mut tx, tenant, WORK, &[id.uuid()]).await?;
        directories::forget_directory(&mut tx, tenant, id).await?;
        store_removals::supersede(&mut tx, tenant, id, None).await?;
        store_members::forget_all(&mut tx, tenant, id).await?;
        tx.commit().await?;
        loop {
            let mut tx = self.db.tenant(tenant).await?;
            let removed = remove_page(&mut tx, tenant, id, cause).await?;
            if removed.is_empty() {
                delivery.done(&mut tx).await?;
                tx.commit().await?;
                return Ok(Outcome::Done);
            }
            tx.commit().await?;
        }
    }
}

async fn destroy_keys(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    cause: CauseId,
) -> Result<(), StoreError> {
    store_keys::lock_client_keys(tx, id).await?;
    let mut events = Vec::new();
    for kid in store_keys::destroy_client_keys(tx, tenant, id).await? {
        let message = "the client key of a deleted integration was destroyed";
        let event =
            Event::new(Some(tenant), names::KEY_DESTROYED, Actor::Service(NAME), Became::Success, message);
        let event = event.integration(id).cause(cause);
        events.push(event.detail("purpose", "client_key").detail("kid", kid));
    }
    store_client_keys::forget(tx, id).await?;
    audit::record_many(tx, &events).await?;
    Ok(())
}

async fn remove_page(
    tx: &mut Tx,
    tenant: TenantId,
    id: IntegrationId,
    cause: CauseId,
) -> Result<Vec<AccountId>, StoreError> {
    store_accounts::lock_usage(tx, tenant).await?;
    let removed = store_accounts::remove_some(tx, tenant, id, PAGE).await?;
    if removed.is_empty() {
        return Ok(removed);
    }
    let Gone { identities, identifiers } = removals::let_go(tx, tenant, cause, &removed).await?;
    let message = "accounts of a deleted integration were removed";
    let event =
        Event::new(Some(tenant), names::ACCOUNTS_REMOVED, Actor::Service(NAME), Became::Success, message)
            .integration(id)
            .cause(cause)
            .detail("accounts", removed.len())
            .detail("identities", identities)
            .detail("identifiers", identifiers);
    audit::record(tx, &event).await?;
    Ok(removed)
}
