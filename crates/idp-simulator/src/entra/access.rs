//! Who calls Graph and what their token allows: audience, expiry, and the `roles` claim.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::{Tenant, errors};
use crate::wire::Request;
use crate::world::World;

/// Application id of Microsoft Graph.
pub const GRAPH_APP_ID: &str = "00000003-0000-0000-c000-000000000000";

/// Application permissions and the ids of their app roles (entra.md §18).
pub const APP_ROLES: &[(&str, &str)] = &[
    ("User.Read.All", "df021288-bdef-4463-88db-98f22de89214"),
    ("User.ReadBasic.All", "97235f07-e226-4f63-ace3-39588e11d3a1"),
    ("User.ReadWrite.All", "741f803b-c850-494e-b5df-cde7c675a1ca"),
    ("User.RevokeSessions.All", "77f3a031-c388-4f99-b373-dc68676a979e"),
    ("User.EnableDisableAccount.All", "3011c876-62b7-4ada-afa2-506cbbecc68c"),
    ("Directory.Read.All", "7ab1d382-f21e-4acd-a863-ba3e13f7da61"),
    ("Directory.ReadWrite.All", "19dbc75e-c2e2-444c-a770-ec69d8559fc7"),
    ("User.DeleteRestore.All", "eccc023d-eccf-4e7b-9683-8813ab36cecc"),
    ("Group.Read.All", "5b567255-7703-4780-807c-7be8301ae99b"),
    ("Group.ReadWrite.All", "62a82d76-70ea-41e2-9197-370581804d09"),
    ("GroupMember.Read.All", "98830695-27a2-44f7-8c18-0c3ebc9698f6"),
    ("GroupMember.ReadWrite.All", "dbaae8cf-10b5-4b86-a4a1-f871c94c6695"),
    ("Member.Read.Hidden", "658aa5d8-239f-45c4-aa12-864f4fc7e490"),
    ("Application.Read.All", "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30"),
    ("AppRoleAssignment.ReadWrite.All", "06b708a9-e830-4db3-a914-8e69da51d44f"),
    ("RoleManagement.ReadWrite.Directory", "9e3f62cf-ca93-4989-b6ce-bf83c28f9fe8"),
    ("RoleManagement.Read.Directory", "483bed4a-2ad3-4361-a73b-c83ccdbdc53c"),
    ("IdentityRiskyUser.Read.All", "dc5007c0-2d7d-4c42-879c-2dab87571379"),
    ("IdentityRiskyUser.ReadWrite.All", "656f6061-f9fe-4807-9708-6a2e0934df76"),
    ("AuditLog.Read.All", "b0afded3-3588-46d8-8b3d-9842eff778da"),
    ("Organization.Read.All", "498476ce-e0fe-48b0-b801-37ba7e2685c6"),
    ("LicenseAssignment.Read.All", "e2f98668-2877-4f38-a2f4-8202e0717aa1"),
    ("Domain.Read.All", "dbb9058a-0e50-45d7-ae91-66909b5d4664"),
    ("OnPremDirectorySynchronization.Read.All", "bb70e231-92dc-4729-aff5-697b3f04be95"),
    ("Policy.Read.All", "246dd0d5-5bd0-4def-940b-0421030a5b68"),
];

/// Permissions that let a caller read users.
pub const READ_USERS: &[&str] =
    &["User.Read.All", "User.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All"];

/// An application that presented a valid token.
pub struct Caller {
    /// Its tenant.
    pub(super) tenant: Tenant,
    /// Client id.
    pub client_id: String,
    /// Permissions the token carries; what was granted since is not in it.
    pub permissions: Vec<String>,
}

impl Caller {
    /// Whether the token carries one of these.
    pub fn has_any(&self, wanted: &[&str]) -> bool {
        wanted.iter().any(|w| self.has(w))
    }

    /// Whether the token carries this one.
    pub fn has(&self, wanted: &str) -> bool {
        self.permissions.iter().any(|p| p == wanted)
    }

    /// Directory roles of the caller's service principal, as they are now.
    pub fn roles(&self) -> &[String] {
        self.tenant.settings.app(&self.client_id).map_or(&[], |app| app.roles.as_slice())
    }
}

/// The caller a request's bearer token names; the error is the answer to give.
pub fn caller(world: &Arc<World>, request: &Request) -> Result<Caller, Response<Bytes>> {
    let now = world.now();
    let no = |message: &str| errors::graph(request, now, 401, "InvalidAuthenticationToken", message);
    let token = request
        .authorization("Bearer")
        .filter(|t| !t.is_empty())
        .ok_or_else(|| no("Access token is empty."))?;
    let claims = world
        .tokens
        .open(token)
        .ok_or_else(|| no("IDX14100: JWT is not well formed or its signature is invalid."))?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| claims.get(name).and_then(Value::as_i64).unwrap_or_default();
    let audience = text("aud");
    let ours = audience == GRAPH_APP_ID || audience == request.base;
    if !ours {
        return Err(no("Access token validation failure. Invalid audience."));
    }
    if number("exp") <= now.unix_timestamp() {
        return Err(no("Lifetime validation failed, the token is expired."));
    }
    let tenant = world
        .directory(text("tid"))
        .and_then(Tenant::of)
        .ok_or_else(|| no("The tenant for the token was not found."))?;
    let permissions = claims.get("roles").and_then(Value::as_array);
    let permissions =
        permissions.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(Caller { tenant, client_id: text("appid").to_owned(), permissions })
}

/// Role template ids (entra.md §18).
pub const ROLE_TEMPLATES: &[(&str, &str)] = &[
    ("Global Administrator", "62e90394-69f5-4237-9190-012177145e10"),
    ("Privileged Role Administrator", "e8611ab8-c189-46e8-94e1-60213ab1f814"),
    ("Privileged Authentication Administrator", "7be44c8a-adaf-4e2a-84d6-ab2649e08a13"),
    ("User Administrator", "fe930be7-5e62-47db-91af-98c3a49a38b1"),
    ("Authentication Administrator", "c4e39bd9-1100-46d3-8c65-fb160da0071f"),
    ("Helpdesk Administrator", "729827e3-9c14-49f7-bb1b-9608f156bbb8"),
    ("Password Administrator", "966707d0-3269-4727-9be2-8c3a10f19b9d"),
    ("Security Administrator", "194ae4cb-b126-40b2-bd5b-6091b380977d"),
    ("Groups Administrator", "fdd7a751-b60b-444a-984c-02652fe8fa1c"),
    ("Reports Reader", "4a5d8f65-41da-4de4-8968-e035b65339cf"),
    ("Directory Readers", "88d8e3e3-8f55-4a1e-953a-9b9898b8876b"),
    ("Guest Inviter", "95e79109-95c0-4d8e-aee3-d01accf2d47b"),
    ("Message Center Reader", "790c1fb9-7f7d-4f88-86a1-ef1f95c05c1b"),
];

/// Whether a caller with these directory roles may do sensitive things to a target with those (entra.md §12.2).
///
/// Plain application permissions suffice for targets without administrator roles, and were observed to suffice for roles
/// below the three most privileged ones.
pub fn may_act_on(caller: &[String], target: &[String]) -> bool {
    const PROTECTED: [&str; 3] =
        ["Global Administrator", "Privileged Authentication Administrator", "Privileged Role Administrator"];
    const SUFFICIENT: [&str; 2] = ["Global Administrator", "Privileged Authentication Administrator"];
    let protected = target.iter().any(|role| PROTECTED.contains(&role.as_str()));
    !protected || caller.iter().any(|role| SUFFICIENT.contains(&role.as_str()))
}
