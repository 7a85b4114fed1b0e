//! Deleting a tenant: its keys first, in the transaction that deletes it; its rows go in the background.

use shared::{
    audit::{self, Event, Outcome, names},
    db::Db,
    sealing::Purpose,
    wire::v1,
};

use super::{id, is_text};
use crate::{
    auth::Caller,
    error::ApiError,
    store::{keys, registry},
};

pub(super) async fn delete(
    db: &Db,
    caller: &Caller,
    request: v1::DeleteTenantRequest,
) -> Result<v1::DeleteTenantResponse, ApiError> {
    let v1::DeleteTenantRequest { tenant_id, confirm_name, reason } = request;
    let tenant = id("tenant_id", &tenant_id)?;
    if !is_text(&reason, 500) {
        return Err(ApiError::field("reason", "say why, in 1 to 500 printable characters"));
    }
    let mut tx = db.system().await?;
    let found = registry::tenant(&mut tx, tenant).await?.ok_or(ApiError::NotFound("tenant"))?;
    if found.name != confirm_name {
        return Err(ApiError::field("confirm_name", "give the tenant's name exactly, to confirm"));
    }
    if !keys::delete_tenant(&mut tx, tenant, reason.trim(), caller.named().0).await? {
        return Err(ApiError::NotFound("tenant"));
    }
    // INVARIANT: who is told that the tenant is deleted knows that nothing sealed of it opens any more.
    let mut destroyed = 0;
    for purpose in [Purpose::Integration, Purpose::Leak] {
        let halves = keys::shred(&mut tx, purpose, tenant).await?;
        destroyed += halves;
        // In the tenant's own chain, which stays, and in the installation's.
        for chain in [Some(tenant), None] {
            let message = "the tenant's private keys were destroyed; nothing sealed to them opens any more";
            let event = Event::new(chain, names::KEY_SHREDDED, caller.actor(), Outcome::Success, message)
                .object("tenant", tenant)
                .detail("purpose", purpose.as_str())
                .detail("halves", halves);
            audit::record(&mut tx, &event).await?;
        }
    }
    for chain in [Some(tenant), None] {
        let event =
            Event::new(chain, names::TENANT_DELETED, caller.actor(), Outcome::Success, "tenant deleted")
                .object("tenant", tenant)
                .detail("name", &found.name)
                .detail("reason", reason.trim());
        audit::record(&mut tx, &event).await?;
    }
    tx.commit().await?;
    Ok(v1::DeleteTenantResponse { keys_destroyed: destroyed })
}
