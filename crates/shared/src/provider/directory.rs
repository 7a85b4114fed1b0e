//! From an integration to the provider behind it: opens the secret and builds the adapter, for every service that
//! may. Adapters hold access tokens and pace themselves, so one is kept per integration and version.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Provider, ProviderError,
    entra::Entra,
    http::Egress,
    okta::{
        Okta,
        rotation::{HELD, Lease},
    },
    pace::{Pace, Share},
};
use crate::{
    db::{StoreError, Tx},
    id::{IntegrationId, TenantId},
    integration::{Connection, OktaConnection},
    integration_store::{self as store, Integration, Sealed},
    sealing::{Opener, Owner, SealError, TopKeys, column},
    secret::SecretBytes,
};

/// Most adapters kept; the one unused for longest goes first.
const KEPT: usize = 256;

/// Why there is no provider for an integration now.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The integration has no secret yet.
    #[error("the integration has no credentials yet")]
    NoCredentials,
    /// The tenant's sealing key is missing: it is being prepared, or was shredded.
    #[error("the tenant's sealing key is not there")]
    NoKey,
    /// The secret does not open.
    #[error("the integration's secret cannot be opened: {0}")]
    Sealed(#[from] SealError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The adapter refuses the configuration.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

/// Makes and keeps providers.
pub struct Directories {
    egress: Egress,
    top: Arc<TopKeys>,
    kept: Mutex<HashMap<IntegrationId, Kept>>,
    /// By what names the directory in a configuration. Outlives adapters: a new version spends the same quota.
    paces: Mutex<HashMap<String, Arc<Pace>>>,
    held: Duration,
}

/// What an adapter was made of: the integration's version, its secret's, and whether that is not proven yet.
type Version = (i64, u32, bool);

struct Kept {
    tenant: TenantId,
    version: Version,
    provider: Arc<dyn Provider>,
    lease: Arc<Lease>,
    used: Instant,
}

impl fmt::Debug for Directories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directories").finish_non_exhaustive()
    }
}

impl Directories {
    /// `top` is the top key of purpose `integration`.
    pub fn new(egress: Egress, top: Arc<TopKeys>) -> Self {
        Self { egress, top, kept: Mutex::default(), paces: Mutex::default(), held: HELD }
    }

    /// Has adapters sign with their client key for this long after they were connected, instead of [`HELD`].
    #[must_use]
    pub fn holding(self, held: Duration) -> Self {
        Self { held, ..self }
    }

    /// The top keys of purpose `integration`.
    pub fn top(&self) -> &Arc<TopKeys> {
        &self.top
    }

    /// Forgets what was opened of a tenant: its keys were destroyed.
    pub fn forget(&self, tenant: TenantId) {
        self.top.forget(tenant);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, kept| kept.tenant != tenant);
    }

    /// The provider behind an integration. The transaction is of the integration's tenant; nothing is asked of the
    /// network here.
    pub async fn connect(
        &self,
        tx: &mut Tx,
        integration: &Integration,
    ) -> Result<Arc<dyn Provider>, ConnectError> {
        let asked = Instant::now();
        let sealed = Self::saved(tx, integration).await?;
        self.connect_read(tx, integration, &sealed, asked).await
    }

    /// As [`connect`](Self::connect), with the integration's secret as the caller has read it in this transaction; `asked`
    /// is before it did.
    pub async fn connect_read(
        &self,
        tx: &mut Tx,
        integration: &Integration,
        sealed: &Sealed,
        asked: Instant,
    ) -> Result<Arc<dyn Provider>, ConnectError> {
        let place = Self::place(integration);
        let until = asked + self.held;
        let version = (integration.version, sealed.version, sealed.unproven);
        // INVARIANT: an adapter holds an opened secret. It is used no longer than the key that opened it may be.
        let opener = self.opener(tx, integration.tenant, sealed).await?;
        if let Some(provider) = self.kept(integration.id, version, until) {
            return Ok(provider);
        }
        let secret = Self::open(&opener, integration.tenant, integration.id, place, sealed)?;
        let lease = Arc::new(Lease::until(until));
        let provider = self.build(integration, sealed, secret, &lease)?;
        self.keep(integration, version, &provider, lease);
        Ok(provider)
    }

    /// The provider behind a configuration that is not saved: another connection, scope or secret of an integration.
    /// It is not kept.
    pub async fn connect_draft(
        &self,
        tx: &mut Tx,
        draft: &Integration,
        secret: Option<Sealed>,
    ) -> Result<Arc<dyn Provider>, ConnectError> {
        let place = Self::place(draft);
        let lease = Arc::new(Lease::until(Instant::now() + self.held));
        let sealed = match secret {
            Some(secret) => secret,
            None => Self::saved(tx, draft).await?,
        };
        let opener = self.opener(tx, draft.tenant, &sealed).await?;
        let secret = Self::open(&opener, draft.tenant, draft.id, place, &sealed)?;
        self.build(draft, &sealed, secret, &lease)
    }

    /// The Okta org behind an integration, spoken to with this client key whichever signs. It is not kept.
    pub async fn connect_with(
        &self,
        tx: &mut Tx,
        integration: &Integration,
        key: &Sealed,
    ) -> Result<Okta, ConnectError> {
        let Connection::Okta(connection) = &integration.connection else {
            return Err(ConnectError::NoCredentials);
        };
        let lease = Arc::new(Lease::until(Instant::now() + self.held));
        let opener = self.opener(tx, integration.tenant, key).await?;
        let secret = Self::open(&opener, integration.tenant, integration.id, column::CLIENT_KEY, key)?;
        Ok(self.okta(connection, integration, key, &secret)?.leased(lease))
    }

    fn place(integration: &Integration) -> &'static str {
        match integration.connection {
            Connection::EntraId(_) => column::INTEGRATION_SECRET,
            Connection::Okta(_) => column::CLIENT_KEY,
        }
    }

    async fn saved(tx: &mut Tx, integration: &Integration) -> Result<Sealed, ConnectError> {
        let sealed = match integration.connection {
            Connection::EntraId(_) => store::sealed_secret(tx, integration.id).await?,
            Connection::Okta(_) => store::sealed_client_key(tx, integration.id).await?,
        };
        sealed.ok_or(ConnectError::NoCredentials)
    }

    fn build(
        &self,
        integration: &Integration,
        sealed: &Sealed,
        secret: SecretBytes,
        lease: &Arc<Lease>,
    ) -> Result<Arc<dyn Provider>, ConnectError> {
        let (egress, scope) = (self.egress.clone(), integration.settings.scope.clone());
        let share = Share::percent(integration.settings.quota_percent);
        Ok(match &integration.connection {
            Connection::EntraId(connection) => Arc::new(
                Entra::new(egress, connection.clone(), secret)?
                    .within(scope)
                    .paced(self.pace(&connection.tenant), share),
            ),
            Connection::Okta(connection) => {
                let okta = self.okta(connection, integration, sealed, &secret)?;
                Arc::new(okta.leased(Arc::clone(lease)).within(scope))
            }
        })
    }

    fn okta(
        &self,
        connection: &OktaConnection,
        integration: &Integration,
        key: &Sealed,
        secret: &SecretBytes,
    ) -> Result<Okta, ProviderError> {
        let share = Share::percent(integration.settings.quota_percent);
        let okta = Okta::new(connection, &key.kid, secret, self.egress.clone())?
            .paced(self.pace(&connection.host), share);
        Ok(if key.unproven { okta.with_unproven_key() } else { okta })
    }

    fn pace(&self, directory: &str) -> Arc<Pace> {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        if paces.len() >= KEPT {
            paces.retain(|_, pace| Arc::strong_count(pace) > 1);
        }
        Arc::clone(paces.entry(directory.to_ascii_lowercase()).or_default())
    }

    async fn opener(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        sealed: &Sealed,
    ) -> Result<Arc<Opener>, ConnectError> {
        let version = Opener::version_of(&sealed.envelope)?;
        if let Some(opener) = self.top.kept(Some(tenant), version) {
            return Ok(opener);
        }
        let pair = store::sealing_key(tx, version).await?.ok_or(ConnectError::NoKey)?;
        Ok(self.top.opener(Some(tenant), version, &pair).await?)
    }

    fn open(
        opener: &Opener,
        tenant: TenantId,
        integration: IntegrationId,
        place: &str,
        sealed: &Sealed,
    ) -> Result<SecretBytes, ConnectError> {
        let owner =
            Owner { tenant: Some(tenant), table: place, row: integration.uuid(), version: sealed.version };
        Ok(SecretBytes::from(opener.open(&owner, &sealed.envelope)?))
    }

    fn kept(
        &self,
        integration: IntegrationId,
        version: Version,
        until: Instant,
    ) -> Option<Arc<dyn Provider>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get_mut(&integration).filter(|k| k.version == version)?;
        found.used = Instant::now();
        found.lease.renew(until);
        Some(Arc::clone(&found.provider))
    }

    fn keep(
        &self,
        integration: &Integration,
        version: Version,
        provider: &Arc<dyn Provider>,
        lease: Arc<Lease>,
    ) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT
            && let Some(oldest) = kept.iter().min_by_key(|(_, k)| k.used).map(|(id, _)| *id)
        {
            kept.remove(&oldest);
        }
        let Integration { tenant, id, .. } = *integration;
        let (provider, used) = (Arc::clone(provider), Instant::now());
        kept.insert(id, Kept { tenant, version, provider, lease, used });
    }
}
