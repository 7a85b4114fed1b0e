//! Who calls, for which tenant, and whether they may: one layer in front of every public service.

mod access;
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

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub`.
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
        Actor::Person { id: self.claims.subject.clone(), name: self.claims.name.clone() }
    }
}

/// The admitted caller of a request; the layer has put it there.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, ApiError> {
    request.extensions().get::<Caller>().cloned().ok_or(ApiError::Internal("a call without its caller"))
}
