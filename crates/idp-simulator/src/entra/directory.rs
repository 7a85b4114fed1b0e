//! What the tenant says about itself: organization, domains, licences, service principals, settings, groups, roles.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::access::{APP_ROLES, Caller, GRAPH_APP_ID, ROLE_TEMPLATES};
use super::errors;
use super::settings::Licence;
use super::user::date;
use super::users::listing;
use crate::generate::derived_guid;
use crate::model::{Authority, Status};
use crate::wire::{self, Request};
use crate::world::World;

const P1_PLAN: (&str, &str) = ("41781fb2-bc02-4b7c-bd55-b576c07bb09d", "AAD_PREMIUM");
const P2_PLAN: (&str, &str) = ("eec0eb4f-6444-4f95-aba0-50c24d67f998", "AAD_PREMIUM_P2");

/// `GET /organization`: without the permission most of it is null (entra.md §15).
pub fn organization(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    if caller.permissions.is_empty() {
        return errors::denied(request, world.now());
    }
    let settings = &caller.tenant.settings;
    let full = caller.has_any(&["Organization.Read.All", "Directory.Read.All"]);
    let only = |value: Value| if full { value } else { Value::Null };
    let domains: Vec<Value> = settings
        .domains
        .iter()
        .enumerate()
        .map(|(at, domain)| {
            json!({"name": domain.name, "isDefault": at == 0, "isInitial": at == 0, "type": kind(domain.authority),
                "capabilities": "Email, OfficeCommunicationsOnline"})
        })
        .collect();
    let hybrid = settings.domains.iter().any(|domain| domain.authority != Authority::Cloud);
    let plans: Vec<Value> = plans(caller)
        .iter()
        .map(|(id, _)| {
            json!({"assignedDateTime": date(world.now()), "capabilityStatus": "Enabled",
                "service": "AADPremiumService", "servicePlanId": id})
        })
        .collect();
    let organization = json!({"id": settings.tenant_id, "displayName": caller.tenant.directory.name,
        "verifiedDomains": domains, "tenantType": only(json!("AAD")),
        "onPremisesSyncEnabled": only(if hybrid { json!(true) } else { Value::Null }),
        "assignedPlans": only(json!(plans))});
    listing(request, "organization", [organization])
}

/// `GET /domains`
pub fn domains(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    if !caller.has_any(&["Domain.Read.All", "Directory.Read.All"]) {
        return errors::denied(request, world.now());
    }
    let domains = caller.tenant.settings.domains.iter().enumerate().map(|(at, domain)| {
        json!({"id": domain.name, "authenticationType": kind(domain.authority), "isDefault": at == 0,
            "isInitial": at == 0, "isVerified": true, "isRoot": true, "isAdminManaged": true})
    });
    listing(request, "domains", domains)
}

/// Pass-through domains are Managed too: from here they cannot be told apart.
fn kind(authority: Authority) -> &'static str {
    if authority == Authority::Federated { "Federated" } else { "Managed" }
}

/// `GET /subscribedSkus`
pub fn licences(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    if !caller.has_any(&["LicenseAssignment.Read.All", "Organization.Read.All", "Directory.Read.All"]) {
        return errors::denied(request, world.now());
    }
    let tenant = &caller.tenant.settings.tenant_id;
    let skus = plans(caller).into_iter().map(|(plan, name)| {
        let sku = derived_guid(name);
        json!({"id": format!("{tenant}_{sku}"), "skuId": sku, "skuPartNumber": name, "capabilityStatus": "Enabled",
            "appliesTo": "User", "consumedUnits": 14,
            "prepaidUnits": {"enabled": 25, "lockedOut": 0, "suspended": 0, "warning": 0},
            "servicePlans": [{"servicePlanId": plan, "servicePlanName": name, "provisioningStatus": "Success",
                "appliesTo": "User"}]})
    });
    listing(request, "subscribedSkus", skus)
}

fn plans(caller: &Caller) -> Vec<(&'static str, &'static str)> {
    let settings = &caller.tenant.settings;
    let owned = [(Licence::P1, P1_PLAN), (Licence::P2, P2_PLAN)];
    owned
        .into_iter()
        .filter(|(licence, _)| settings.licences.contains(licence))
        .map(|(_, plan)| plan)
        .collect()
}

/// `GET /servicePrincipals(appId='…')`
pub fn service_principal(
    world: &Arc<World>,
    request: &Request,
    caller: &Caller,
    app_id: &str,
) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(&["Application.Read.All", "Directory.Read.All"]) {
        return errors::denied(request, now);
    }
    let Some(app) = caller.tenant.settings.app(app_id) else {
        return errors::not_found(request, now, app_id);
    };
    wire::json(
        StatusCode::OK,
        &json!({"@odata.context": request.link("/v1.0/$metadata#servicePrincipals/$entity"), "id": app.object_id(),
            "appId": app.client_id, "displayName": app.name, "servicePrincipalType": "Application",
            "accountEnabled": !app.disabled, "appRoleAssignmentRequired": false}),
    )
}

/// `GET /servicePrincipals(appId='…')/appRoleAssignments`: what the application was really granted.
pub fn app_roles(world: &Arc<World>, request: &Request, caller: &Caller, app_id: &str) -> Response<Bytes> {
    let now = world.now();
    if !caller.has_any(&["Application.Read.All", "Directory.Read.All"]) {
        return errors::denied(request, now);
    }
    let Some(app) = caller.tenant.settings.app(app_id) else {
        return errors::not_found(request, now, app_id);
    };
    let granted = app.permissions.iter().filter_map(|permission| {
        let (_, role) = APP_ROLES.iter().find(|(name, _)| name == permission)?;
        Some(json!({"id": derived_guid(&format!("{app_id} {role}")), "appRoleId": role,
            "principalId": app.object_id(), "principalType": "ServicePrincipal", "principalDisplayName": app.name,
            "resourceId": derived_guid(GRAPH_APP_ID), "resourceDisplayName": "Microsoft Graph",
            "createdDateTime": date(now), "deletedDateTime": null}))
    });
    listing(request, "appRoleAssignments", granted)
}

/// `GET /groupSettings`: "Password Rule Settings" is there once somebody customised the lockout, which takes P1.
pub fn group_settings(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    if !caller.has_any(&["Directory.Read.All", "Directory.ReadWrite.All"]) {
        return errors::denied(request, world.now());
    }
    let settings = &caller.tenant.settings;
    let customised = settings.licensed(Licence::P1).then_some(settings.lockout.threshold).flatten();
    let value = customised.map(|threshold| {
        let pair = |name: &str, value: String| json!({"name": name, "value": value});
        json!({"id": derived_guid("Password Rule Settings"), "displayName": "Password Rule Settings",
        "templateId": "5cf42378-d67d-4f36-ba46-e8b86229381d",
        "values": [
            pair("LockoutThreshold", threshold.to_string()),
            pair("LockoutDurationInSeconds", settings.lockout.duration_s.to_string()),
            pair("BannedPasswordCheckOnPremisesMode", "Audit".into()),
            pair("EnableBannedPasswordCheck", "False".into()),
            pair("EnableBannedPasswordCheckOnPremises", "True".into()),
            pair("BannedPasswordList", String::new()),
        ]})
    });
    listing(request, "groupSettings", value)
}

/// `GET /roleManagement/directory/roleAssignments`: every assignment, people and applications alike.
pub fn role_assignments(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    if !caller.has_any(&["RoleManagement.Read.Directory", "Directory.Read.All"]) {
        return errors::denied(request, world.now());
    }
    let assignment = |principal: &str, role: &str| {
        let (_, template) = ROLE_TEMPLATES.iter().find(|(name, _)| *name == role)?;
        Some(json!({"id": derived_guid(&format!("{principal} {template}")), "principalId": principal,
            "directoryScopeId": "/", "resourceScope": "/", "roleDefinitionId": template}))
    };
    let (admins, _) = caller
        .tenant
        .directory
        .accounts
        .page(0, usize::MAX, |account| !account.roles.is_empty() && account.status != Status::Deleted);
    let people = admins.iter().flat_map(|a| a.roles.iter().filter_map(|role| assignment(&a.id, role)));
    let apps = caller.tenant.settings.apps.iter();
    let apps = apps.flat_map(|app| app.roles.iter().filter_map(|role| assignment(&app.object_id(), role)));
    let wanted = request
        .param("$filter")
        .and_then(|filter| Some(filter.strip_prefix("principalId eq '")?.strip_suffix('\'')?.to_owned()));
    let all = people.chain(apps);
    let kept = all.filter(|assignment| {
        wanted.as_ref().is_none_or(|id| assignment.get("principalId") == Some(&json!(id)))
    });
    listing(request, "roleManagement/directory/roleAssignments", kept)
}

/// `GET /directory/onPremisesSynchronization`: whether password hashes are synchronised.
pub fn synchronization(world: &Arc<World>, request: &Request, caller: &Caller) -> Response<Bytes> {
    if !caller.has_any(&["OnPremDirectorySynchronization.Read.All"]) {
        return errors::denied(request, world.now());
    }
    let settings = &caller.tenant.settings;
    let features =
        json!({"passwordSyncEnabled": settings.password_hash_sync, "passwordWritebackEnabled": false});
    listing(
        request,
        "directory/onPremisesSynchronization",
        [json!({"id": settings.tenant_id, "features": features})],
    )
}
