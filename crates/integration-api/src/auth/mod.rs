//! Who calls, for which tenant, and whether they may: one layer in front of every public service.

mod access;
mod certificate;
mod claims;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod jwks;
mod layer;
mod token;

use std::collections::BTreeSet;

use jsonwebtoken::Algorithm;
use shared::{
    audit::Actor,
    id::{OrganizationId, TenantId},
    wire::v1::Role,
};

pub use self::{
    access::{Access, AccessTable},
    certificate::CertifiedServices,
    jwks::IssuerKeys,
    layer::{Guard, Guarded},
    token::Verifier,
};
use crate::error::ApiError;

/// The algorithm with this name, if callers' tokens may be signed with it: asymmetric ones only.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "RS256" => Some(Algorithm::RS256),
        "PS256" => Some(Algorithm::PS256),
        "ES256" => Some(Algorithm::ES256),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// The name of a role in tokens: `tenant_admin`.
pub fn role_name(role: Role) -> String {
    role.as_str_name().trim_start_matches("ROLE_").to_ascii_lowercase()
}

/// The role with this name in tokens; never the unspecified one.
pub fn role(name: &str) -> Option<Role> {
    ROLES.into_iter().find(|role| role_name(*role) == name)
}

const ROLES: [Role; 8] = [
    Role::OrgAdmin,
    Role::TenantAdmin,
    Role::Analyst,
    Role::Viewer,
    Role::Auditor,
    Role::FeedWriter,
    Role::Operator,
    Role::Approver,
];

/// What a valid token, or the configuration about a client certificate, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub`; of a caller without a person, a name that begins with [`SERVICE_PREFIX`].
    ///
    /// [`SERVICE_PREFIX`]: shared::audit::SERVICE_PREFIX
    pub subject: String,
    /// Display name.
    pub name: String,
    /// Organization.
    pub organization: Option<OrganizationId>,
    /// Tenants the caller may work in.
    pub tenants: BTreeSet<TenantId>,
    /// Roles.
    pub roles: BTreeSet<Role>,
}

/// An admitted caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What the token says.
    pub claims: Claims,
    /// The tenant of this call, from the token.
    pub tenant: Option<TenantId>,
}

impl Caller {
    /// Who it is, as rows keep it: the token's subject, and a name for display.
    pub fn named(&self) -> (&str, &str) {
        (&self.claims.subject, &self.claims.name)
    }
    /// The right of an approver, where only the call itself can tell whether it is needed.
    pub fn must_approve(&self) -> Result<(), ApiError> {
        if self.has(Role::Approver) {
            return Ok(());
        }
        Err(ApiError::Denied {
            reason: "ROLE_MISSING",
            message: "somebody else asked for this: only an approver refuses it (the right approver)".into(),
        })
    }
    /// The tenant of this call.
    pub fn tenant(&self) -> Result<TenantId, ApiError> {
        self.tenant.ok_or_else(|| ApiError::Denied {
            reason: "TENANT_MISSING",
            message: "this call works on a tenant and the token lists none".into(),
        })
    }
    /// Whether the token carries the role.
    pub fn has(&self, role: Role) -> bool {
        self.claims.roles.contains(&role)
    }
    /// The caller as the audit log names people.
    pub fn actor(&self) -> Actor {
        Actor::caller(&self.claims.subject, &self.claims.name)
    }
}

/// The admitted caller of a request; the layer has put it there.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, ApiError> {
    request.extensions().get::<Caller>().cloned().ok_or(ApiError::Internal("a call without its caller"))
}
