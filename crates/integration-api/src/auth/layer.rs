//! The layer in front of every public service.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response};
use shared::{
    audit::{self, Actor, Outcome},
    db::Db,
    id::{OrganizationId, TenantId},
};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::{Access, AccessTable, Caller, Claims, Verifier, role_name};
use crate::{error::ApiError, store};

/// The metadata by which a caller with several tenants names one.
const TENANT_METADATA: &str = "x-parapet-tenant";
const MOST_REMEMBERED: usize = 10_000;
/// How long a tenant that was deleted may still be let in.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);

/// Decides whether a call is admitted.
#[derive(Debug)]
pub struct Guard {
    verifier: Verifier,
    table: AccessTable,
    db: Db,
    // A tenant never changes its organization, but it can be deleted: what was found holds for a few seconds.
    owners: Mutex<HashMap<TenantId, (OrganizationId, Instant)>>,
}

impl Guard {
    /// With the token check, the RPCs' requirements, and the registry.
    pub fn new(verifier: Verifier, table: AccessTable, db: Db) -> Arc<Self> {
        Arc::new(Self { verifier, table, db, owners: Mutex::default() })
    }

    /// Admits a call or says why not.
    ///
    /// INVARIANT: there is no way past this for a call to a public service: token first, then role, then tenant.
    async fn admit(&self, path: &str, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let claims = self.verifier.verify(bearer(headers)?).await?;
        let Some(access) = self.table.of(path) else {
            return Err(ApiError::NotFound("method"));
        };
        if !access.any_of.iter().any(|role| claims.roles.contains(role)) {
            let needed: Vec<_> = access.any_of.iter().map(|r| role_name(*r)).collect();
            let refusal = ApiError::Denied {
                reason: "ROLE_MISSING",
                message: format!("this call needs one of the roles {}", needed.join(", ")),
            };
            return Err(self.refused(path, &claims, "role.refused", refusal).await?);
        }
        match self.tenant(access, &claims, headers).await {
            Ok(tenant) => Ok(Caller { claims, tenant }),
            Err(refusal @ ApiError::Denied { .. }) => {
                Err(self.refused(path, &claims, "tenant.refused", refusal).await?)
            }
            Err(other) => Err(other),
        }
    }

    async fn tenant(
        &self,
        access: &Access,
        claims: &Claims,
        headers: &HeaderMap,
    ) -> Result<Option<TenantId>, ApiError> {
        if access.installation {
            return Ok(None);
        }
        let named = match headers.get(TENANT_METADATA) {
            None => None,
            Some(value) => {
                let text = value.to_str().unwrap_or_default();
                let id = text.parse::<TenantId>();
                Some(id.map_err(|_| ApiError::field(TENANT_METADATA, "give a tenant's id (UUID)"))?)
            }
        };
        let tenant = match (named, claims.tenants.len()) {
            (Some(named), _) if claims.tenants.contains(&named) => named,
            (Some(_), _) => {
                return Err(ApiError::Denied {
                    reason: "TENANT_NOT_LISTED",
                    message: "the token does not list this tenant".into(),
                });
            }
            (None, 1) => *claims.tenants.first().ok_or(ApiError::Internal("one tenant is none"))?,
            (None, _) if access.tenant_optional => return Ok(None),
            (None, 0) => {
                return Err(ApiError::Denied {
                    reason: "TENANT_MISSING",
                    message: "the token lists no tenant".into(),
                });
            }
            (None, _) => {
                return Err(ApiError::field(
                    TENANT_METADATA,
                    "the token lists several tenants: name one in this metadata",
                ));
            }
        };
        let owner = self.owner(tenant).await?;
        if owner.is_none() || (claims.organization.is_some() && owner != claims.organization) {
            return Err(ApiError::Denied {
                reason: "TENANT_UNKNOWN",
                message: "the tenant does not exist or belongs to another organization".into(),
            });
        }
        Ok(Some(tenant))
    }

    async fn owner(&self, tenant: TenantId) -> Result<Option<OrganizationId>, ApiError> {
        let remembered = self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).copied();
        if let Some((organization, since)) = remembered
            && since.elapsed() < REMEMBERED_FOR
        {
            return Ok(Some(organization));
        }
        let mut tx = self.db.system().await?;
        let found = store::registry::organization_of(&mut tx, tenant).await?;
        tx.rollback().await?;
        if let Some(organization) = found {
            let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            if owners.len() >= MOST_REMEMBERED {
                owners.clear();
            }
            owners.insert(tenant, (organization, Instant::now()));
        }
        Ok(found)
    }

    /// Records a refusal in the caller's own tenant's chain, or the installation's when there is no single one.
    async fn refused(
        &self,
        path: &str,
        claims: &Claims,
        kind: &'static str,
        refusal: ApiError,
    ) -> Result<ApiError, ApiError> {
        let only = if claims.tenants.len() == 1 { claims.tenants.first().copied() } else { None };
        let mut tenant = None;
        if let Some(only) = only
            && self.owner(only).await?.is_some()
        {
            tenant = Some(only);
        }
        let actor = Actor::Person { id: claims.subject.clone(), name: claims.name.clone() };
        let roles: Vec<_> = claims.roles.iter().map(|r| role_name(*r)).collect();
        let event = audit::Event::new(tenant, kind, actor, Outcome::Refused, refusal.to_string())
            .object("method", path)
            .detail("roles", roles.join(","));
        let mut tx = self.db.system().await?;
        audit::record(&mut tx, &event).await?;
        tx.commit().await?;
        Ok(refusal)
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let missing = ApiError::Unauthenticated {
        reason: "TOKEN_MISSING",
        message: "send an access token: `authorization: Bearer ...`",
    };
    let Some(value) = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()) else {
        return Err(missing);
    };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(token.trim())
        }
        _ => Err(missing),
    }
}

/// A public service behind the guard.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S> Guarded<S> {
    /// Puts a service behind the guard.
    pub fn new(inner: S, guard: &Arc<Guard>) -> Self {
        Self { inner, guard: Arc::clone(guard) }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The clone goes on being polled ready; the ready one takes this call.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            match guard.admit(request.uri().path(), request.headers()).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(error) => Ok(Status::from(error).into_http()),
            }
        })
    }
}
