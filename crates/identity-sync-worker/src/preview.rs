//! What another scope of an integration would add and remove. Reads as many pages as a full sync of that scope, and
//! stores nothing but what it has seen, until it ends.

use std::{sync::Arc, time::Duration};

use shared::{
    db::{Db, StoreError},
    id::{IntegrationId, TenantId},
    integration_store::{self, Integration},
    provider::{Listing, Next, Provider, ProviderError},
    wire::{internal, v1::PreviewScopeResponse},
};
use tokio::sync::mpsc;
use tonic::Status;
use uuid::Uuid;

use crate::{page::identifiers, schedule, store_preview as store};

/// Throttles and outages that are waited for before a preview gives up.
const PATIENCE: i32 = 5;
/// Longest single wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// One preview.
#[derive(Debug)]
pub(crate) struct Preview {
    pub db: Db,
    pub tenant: TenantId,
    pub integration: IntegrationId,
    /// Identifiers the tenant's package allows.
    pub cap: i64,
}

/// An account a preview has read.
#[derive(Debug)]
pub(crate) struct Seen {
    pub object_id: String,
    pub login: String,
    pub identifiers: i32,
}

/// What the caller hears.
type Heard = Result<internal::PreviewScopeResponse, Status>;

fn wrapped(preview: PreviewScopeResponse) -> internal::PreviewScopeResponse {
    internal::PreviewScopeResponse { preview: Some(preview) }
}

enum Broken {
    Provider(ProviderError),
    Store(StoreError),
    /// Nobody listens any more.
    Unheard,
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Preview {
    /// Prepares the preview of an integration of this tenant.
    pub async fn of(db: &Db, integration: &Integration) -> Result<Self, StoreError> {
        let mut tx = db.tenant(integration.tenant).await?;
        let package = integration_store::package(&mut tx, integration.tenant).await?;
        tx.rollback().await?;
        let cap = package.map_or(0, |package| package.identifier_cap);
        Ok(Self { db: db.clone(), tenant: integration.tenant, integration: integration.id, cap })
    }

    /// Reads, compares, answers; leaves nothing behind.
    pub async fn run(self, provider: Arc<dyn Provider>, heard: mpsc::Sender<Heard>) {
        let id = Uuid::now_v7();
        let last = match self.read(id, provider.as_ref(), &heard).await {
            Ok(result) => Some(Ok(wrapped(result))),
            Err(Broken::Unheard) => None,
            Err(Broken::Store(error)) => Some(Err(error.into())),
            Err(Broken::Provider(ProviderError::Refused(missing))) => {
                Some(Err(Status::failed_precondition(missing.message)))
            }
            Err(Broken::Provider(error)) => Some(Err(Status::unavailable(error.to_string()))),
        };
        if let Err(error) = self.forget(id).await {
            // The next preview of the tenant removes what is a day old.
            tracing::warn!(tenant = %self.tenant, %error, "a preview's rows stay for now");
        }
        if let Some(last) = last {
            heard.send(last).await.ok();
        }
    }

    async fn read(
        &self,
        id: Uuid,
        provider: &dyn Provider,
        heard: &mpsc::Sender<Heard>,
    ) -> Result<PreviewScopeResponse, Broken> {
        let (mut read, mut at, mut failures) = (0_i64, None, 0);
        loop {
            let page = match provider.accounts(Listing::Full, at.as_ref()).await {
                Ok(page) => page,
                Err(error @ (ProviderError::Refused(_) | ProviderError::CursorExpired)) => {
                    return Err(Broken::Provider(error));
                }
                Err(ProviderError::Paced { wait }) => {
                    tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
                    continue;
                }
                Err(error) if failures >= PATIENCE => return Err(Broken::Provider(error)),
                Err(error) => {
                    failures += 1;
                    let wait = match &error {
                        ProviderError::Throttled { retry_after: Some(asked) } => *asked,
                        _ => schedule::backoff(failures),
                    };
                    tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
                    continue;
                }
            };
            failures = 0;
            let seen: Vec<Seen> = page
                .accounts
                .into_iter()
                .filter(|account| !account.removed)
                .map(|account| Seen {
                    identifiers: i32::try_from(identifiers(&account.login, &account.addresses).len())
                        .unwrap_or(i32::MAX),
                    object_id: account.object_id,
                    login: account.login,
                })
                .collect();
            read += i64::try_from(seen.len()).unwrap_or_default();
            let mut tx = self.db.tenant(self.tenant).await?;
            store::remember(&mut tx, self.tenant, id, &seen).await?;
            tx.commit().await?;
            let progress = PreviewScopeResponse { accounts_read: read, ..PreviewScopeResponse::default() };
            heard.send(Ok(wrapped(progress))).await.map_err(|_| Broken::Unheard)?;
            match page.next {
                Next::Page(cursor) => at = Some(cursor),
                Next::End(_) => break,
            }
        }
        let mut tx = self.db.tenant(self.tenant).await?;
        let compared = store::compare(&mut tx, self.tenant, self.integration, id).await?;
        tx.rollback().await?;
        let over = compared.identifiers_used + compared.identifiers_added - self.cap;
        Ok(PreviewScopeResponse {
            accounts_read: read,
            done: true,
            identifier_cap: self.cap,
            identifiers_over_cap: over.clamp(0, compared.identifiers_added),
            ..compared
        })
    }

    async fn forget(&self, id: Uuid) -> Result<(), StoreError> {
        let mut tx = self.db.tenant(self.tenant).await?;
        store::forget(&mut tx, self.tenant, id).await?;
        tx.commit().await
    }
}
