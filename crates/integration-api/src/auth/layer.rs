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
    audit::{self, Actor, EventType, Outcome, names},
    db::Db,
    grpc::Peer,
    id::{OrganizationId, TenantId},
    wire::v1::Role,
};
use tonic::{Code, Status, body::Body, server::NamedService};
use tower::Service;

use super::{Access, AccessTable, Caller, CertifiedServices, Claims, Verifier, role_name};
use crate::{error::ApiError, store};

/// The metadata by which a caller with several tenants names one.
const TENANT_METADATA: &str = "x-parapet-tenant";
const MOST_REMEMBERED: usize = 10_000;
const ROLE_MISSING: &str = "ROLE_MISSING";
/// How long a tenant that was deleted may still be let in.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);

/// Decides whether a call is admitted.
#[derive(Debug)]
pub struct Guard {
    verifier: Verifier,
    services: CertifiedServices,
    table: AccessTable,
    db: Db,
    // A tenant never changes its organization, but it can be deleted: what was found holds for a few seconds.
    owners: Mutex<HashMap<TenantId, (OrganizationId, Instant)>>,
}

impl Guard {
    /// With the token check, the programs that call by certificate, the RPCs' requirements, and the registry.
    pub fn new(verifier: Verifier, services: CertifiedServices, table: AccessTable, db: Db) -> Arc<Self> {
        Arc::new(Self { verifier, services, table, db, owners: Mutex::default() })
    }

    /// Admits a call or says why not.
    ///
    /// INVARIANT: there is no way past this for a call to a public service: who it is first, then role, then tenant.
    async fn admit(&self, path: &str, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Caller, ApiError> {
        let claims = self.who(headers, peer).await?;
        let Some(access) = self.table.of(path) else {
            return Err(ApiError::NotFound("method"));
        };
        match self.may(access, &claims, headers).await {
            Ok(tenant) => Ok(Caller { claims, tenant }),
            Err(ApiError::Denied { reason, message }) => {
                let kind = if reason == ROLE_MISSING { names::ROLE_REFUSED } else { names::TENANT_REFUSED };
                let named = headers.get(TENANT_METADATA).and_then(|v| v.to_str().ok()).unwrap_or_default();
                let only = if claims.tenants.len() == 1 { claims.tenants.first().copied() } else { None };
                self.refused(kind, path, &claims, only, named, &message).await?;
                Err(ApiError::Denied { reason, message })
            }
            Err(other) => Err(other),
        }
    }

    /// A token decides where there is one; a certificate is for programs that send none.
    async fn who(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Claims, ApiError> {
        match bearer(headers) {
            Ok(token) => self.verifier.verify(token).await,
            Err(missing) if headers.contains_key(http::header::AUTHORIZATION) => Err(missing),
            Err(missing) => peer.and_then(|peer| self.services.of(peer)).cloned().ok_or(missing),
        }
    }

    async fn may(
        &self,
        access: &Access,
        claims: &Claims,
        headers: &HeaderMap,
    ) -> Result<Option<TenantId>, ApiError> {
        let has = |roles: &[Role]| roles.iter().any(|role| claims.roles.contains(role));
        let right = access.with_right.is_none_or(|right| claims.roles.contains(&right));
        let (by_role, by_grant) = (has(&access.any_of), has(&access.if_granted));
        if !right || !(by_role || by_grant) {
            return Err(role_missing(access));
        }
        let tenant = self.tenant(access, claims, headers).await?;
        if !by_role && !self.granted(tenant).await? {
            return Err(role_missing(access));
        }
        Ok(tenant)
    }

    /// Whether the tenant's organization lets the tenant's administrators do what its own do.
    async fn granted(&self, tenant: Option<TenantId>) -> Result<bool, ApiError> {
        let Some(tenant) = tenant else { return Ok(false) };
        let mut tx = self.db.system().await?;
        let granted = store::registry::tenant_admins_add_integrations(&mut tx, tenant).await?;
        tx.rollback().await?;
        Ok(granted)
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
        let mut given = headers.get_all(TENANT_METADATA).iter();
        let named = match (given.next(), given.next()) {
            (None, _) => None,
            (_, Some(_)) => return Err(ApiError::field(TENANT_METADATA, "give one tenant's id (UUID)")),
            (Some(value), None) => {
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

    /// Records a refusal in the chain of the tenant concerned, or the installation's when there is no single one.
    async fn refused(
        &self,
        kind: &'static EventType,
        path: &str,
        claims: &Claims,
        tenant: Option<TenantId>,
        named: &str,
        message: &str,
    ) -> Result<(), ApiError> {
        let mut known = None;
        if let Some(tenant) = tenant
            && self.owner(tenant).await?.is_some()
        {
            known = Some(tenant);
        }
        let actor = Actor::caller(&claims.subject, &claims.name);
        let roles: Vec<_> = claims.roles.iter().map(|r| role_name(*r)).collect();
        let mut event = audit::Event::new(known, kind, actor, Outcome::Refused, message)
            .object("method", path)
            .detail("roles", roles.join(","));
        // What a caller wrote is kept only where it is an id.
        if let Ok(named) = named.parse::<TenantId>() {
            event = event.detail("tenant_named", named);
        }
        let mut tx = self.db.system().await?;
        audit::record(&mut tx, &event).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn role_missing(access: &Access) -> ApiError {
    let names = |roles: &[Role]| roles.iter().map(|r| role_name(*r)).collect::<Vec<_>>().join(", ");
    let mut message = format!("this call needs one of the roles {}", names(&access.any_of));
    if let Some(right) = access.with_right {
        message = format!("{message} and beside it the right {}", role_name(right));
    }
    if !access.if_granted.is_empty() {
        let granted = names(&access.if_granted);
        message = format!("{message}, or {granted} where the organization grants it");
    }
    ApiError::Denied { reason: ROLE_MISSING, message }
}

/// What a service itself told a caller that it refused; its answer has no body then.
fn denied(response: &Response<Body>) -> Option<String> {
    let status = Status::from_header_map(response.headers())?;
    (status.code() == Code::PermissionDenied).then(|| status.message().to_owned())
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
            let path = request.uri().path().to_owned();
            let caller = match guard.admit(&path, request.headers(), request.extensions().get::<Peer>()).await
            {
                Ok(caller) => caller,
                Err(error) => return Ok(Status::from(error).into_http()),
            };
            request.extensions_mut().insert(caller.clone());
            let response = inner.call(request).await?;
            let Some(why) = denied(&response) else { return Ok(response) };
            let Caller { claims, tenant } = &caller;
            match guard.refused(names::CALL_REFUSED, &path, claims, *tenant, "", &why).await {
                Ok(()) => Ok(response),
                Err(error) => Ok(Status::from(error).into_http()),
            }
        })
    }
}
