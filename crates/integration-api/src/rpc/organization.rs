//! What an organization decides for all its tenants.

use shared::{
    audit::{self, Event, Outcome, names},
    db::Db,
    id::OrganizationId,
    wire::v1::{self, Role},
};

use super::optional_id;
use crate::{auth::Caller, error::ApiError, store::registry};

/// The settings of an organization.
pub(super) async fn settings(
    db: &Db,
    caller: &Caller,
    request: v1::GetOrganizationSettingsRequest,
) -> Result<v1::GetOrganizationSettingsResponse, ApiError> {
    let organization = meant(caller, &request.organization_id)?;
    let mut tx = db.system().await?;
    let add = registry::settings_locked(&mut tx, organization).await?;
    tx.rollback().await?;
    Ok(v1::GetOrganizationSettingsResponse {
        organization_id: organization.to_string(),
        settings: Some(v1::OrganizationSettings {
            tenant_admins_add_integrations: add.ok_or(ApiError::NotFound("organization"))?,
        }),
    })
}

/// Replaces the settings of an organization.
pub(super) async fn update_settings(
    db: &Db,
    caller: &Caller,
    request: v1::UpdateOrganizationSettingsRequest,
) -> Result<v1::UpdateOrganizationSettingsResponse, ApiError> {
    let organization = meant(caller, &request.organization_id)?;
    let settings = request.settings.ok_or_else(|| ApiError::field("settings", "give the settings, whole"))?;
    let v1::OrganizationSettings { tenant_admins_add_integrations: add } = settings;
    let mut tx = db.system().await?;
    let before = registry::settings_locked(&mut tx, organization).await?;
    let before = before.ok_or(ApiError::NotFound("organization"))?;
    if before != add {
        registry::update_settings(&mut tx, organization, add).await?;
        // Each tenant's auditors see what was decided about their tenant.
        let tenants = registry::tenants_of(&mut tx, organization).await?;
        let chains = tenants.into_iter().map(Some).chain([None]);
        let message = if add {
            "administrators of the organization's tenants may add integrations"
        } else {
            "only administrators of the organization may add integrations"
        };
        let kind = names::ORGANIZATION_SETTINGS_CHANGED;
        let events: Vec<_> = chains
            .map(|chain| {
                Event::new(chain, kind, caller.actor(), Outcome::Success, message)
                    .object("organization", organization)
                    .detail("before.tenant_admins_add_integrations", before)
                    .detail("after.tenant_admins_add_integrations", add)
            })
            .collect();
        audit::record_many(&mut tx, &events).await?;
    }
    tx.commit().await?;
    Ok(v1::UpdateOrganizationSettingsResponse {
        organization_id: organization.to_string(),
        settings: Some(settings),
    })
}

/// The organization a request is about.
///
/// INVARIANT (I9): an administrator's is the token's own, whatever the request names.
fn meant(caller: &Caller, named: &str) -> Result<OrganizationId, ApiError> {
    let named = optional_id("organization_id", named)?;
    if caller.has(Role::Operator) {
        let own = caller.claims.organization;
        return named.or(own).ok_or_else(|| ApiError::field("organization_id", "name the organization"));
    }
    let own = caller.claims.organization.ok_or_else(|| ApiError::Denied {
        reason: "ORGANIZATION_MISSING",
        message: "the token names no organization".into(),
    })?;
    if named.is_some_and(|named| named != own) {
        return Err(ApiError::Denied {
            reason: "ORGANIZATION_NOT_LISTED",
            message: "the token names another organization".into(),
        });
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Claims;

    fn caller(role: Role, organization: Option<OrganizationId>) -> Caller {
        let claims = Claims {
            subject: "ann".into(),
            name: String::new(),
            organization,
            tenants: [].into(),
            roles: [role].into(),
        };
        Caller { claims, tenant: None }
    }

    #[test]
    fn an_administrator_decides_for_the_tokens_organization_only() {
        let (own, other) = (OrganizationId::new(), OrganizationId::new());
        let admin = caller(Role::OrgAdmin, Some(own));
        assert_eq!(meant(&admin, "").unwrap(), own);
        assert_eq!(meant(&admin, &own.to_string()).unwrap(), own);
        assert!(matches!(meant(&admin, &other.to_string()), Err(ApiError::Denied { .. })));
        assert!(matches!(
            meant(&caller(Role::OrgAdmin, None), &own.to_string()),
            Err(ApiError::Denied { .. })
        ));
        assert_eq!(meant(&caller(Role::Operator, None), &other.to_string()).unwrap(), other);
    }
}
