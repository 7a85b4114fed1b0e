//! What the tenant says about itself: organization, domains, licences and settings.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::access::Caller;
use super::errors;
use super::settings::Licence;
use super::user::date;
use super::users::listing;
use crate::generate::derived_guid;
use crate::model::Authority;
use crate::wire::Request;
use crate::world::World;

const P1_PLAN: (&str, &str) = ("41781fb2-bc02-4b7c-bd55-b576c07bb09d", "AAD_PREMIUM");
const EDUCATION_PLAN: (&str, &str) = ("3a3976ce-de18-4a87-a78e-5e9245e252df", "AAD_EDU");
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
    let owned = [(Licence::P1, P1_PLAN), (Licence::P2, P2_PLAN), (Licence::Education, EDUCATION_PLAN)];
    owned
        .into_iter()
        .filter(|(licence, _)| settings.licences.contains(licence))
        .map(|(_, plan)| plan)
        .collect()
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
