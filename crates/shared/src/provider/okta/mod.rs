//! Okta: a service app (`private_key_jwt`, DPoP) reads users and acts on them; `/api/v1/authn` checks a password.
//!
//! Facts come from the vendor's public material; section numbers (§) name the wire-level fact sheet kept with the
//! design. Keep an [`Okta`] as long as its integration's configuration: it holds the access token and the pace.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use time::OffsetDateTime;

use self::client::Client;
use super::{
    Account, Acted, Action, Asked, AttemptConnection, Attempted, Capability, Containment, Cursor,
    GroupsAndRoles, Listing, LockoutPolicy, MembersRead, Membership, Missing, Others, OwnSignIn, Page,
    PasswordRules, Provider, ProviderError, SignIns, TestReport, Verifier,
    changes::Log,
    http::Egress,
    pace::{Pace, Share},
};
use crate::{
    id::ProviderKind,
    integration::{OktaConnection, SyncScope},
    limiter::AttemptPermit,
    secret::SecretBytes,
};

mod actions;
mod authn;
mod changes;
mod client;
mod failure;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzz;
pub mod host;
pub mod keys;
mod listing;
mod log;
mod members;
mod memberships;
mod policies;
mod probe;
mod rate;
mod risk;
mod sign_ins;
mod token;
mod user;
pub mod verdict;

/// What this kind of provider can do at all.
pub const CAPABILITIES: &[Capability] = &Capability::ALL;

/// How long the list of administrators is believed.
const ADMINS_FOR: Duration = Duration::from_mins(10);

/// One Okta org behind one service app.
pub struct Okta {
    client: Client,
    scope: SyncScope,
    egress: Egress,
    /// Set once the org says that it does not offer blocks (§4.6).
    without_blocks: AtomicBool,
    admins: Mutex<Option<(Instant, Arc<HashSet<String>>)>>,
    /// The lock is held while reading, so that many callers share one list.
    policies: tokio::sync::Mutex<Option<policies::Policies>>,
    changes: Log,
}

impl std::fmt::Debug for Okta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Okta").field("host", &self.client.host()).finish_non_exhaustive()
    }
}

impl Okta {
    /// An adapter for one integration. `kid` and `pkcs8` (DER) are its client key, see [`keys::ClientKey`].
    pub fn new(
        connection: &OktaConnection,
        kid: &str,
        pkcs8: &SecretBytes,
        egress: Egress,
    ) -> Result<Self, ProviderError> {
        let key = keys::SigningKey::open(pkcs8.expose()).map_err(|_| {
            ProviderError::Refused(Missing {
                reason: "key_unusable",
                message: "the integration's client key cannot be read; create the integration again".into(),
                not_granted: false,
            })
        })?;
        let host = host::normalise(&connection.host, egress.okta_domains()).map_err(|message| {
            ProviderError::Refused(Missing { reason: "host_invalid", message, not_granted: false })
        })?;
        Ok(Self {
            client: Client::new(host, &connection.client_id, kid, key, egress.clone()),
            scope: SyncScope::default(),
            egress,
            without_blocks: AtomicBool::new(false),
            admins: Mutex::new(None),
            policies: tokio::sync::Mutex::new(None),
            changes: Log::default(),
        })
    }

    /// Takes no more than this share of the org's rate limits, together with the other adapters that lead to it.
    #[must_use]
    pub fn paced(self, pace: Arc<Pace>, share: Share) -> Self {
        Self { client: self.client.paced(pace, share), ..self }
    }

    /// Lists the accounts of this scope only.
    #[must_use]
    pub fn within(self, scope: SyncScope) -> Self {
        Self { scope, ..self }
    }

    /// Ids of the accounts that hold an administrator role, as far as they may be read; believed for a while.
    ///
    /// Reading them needs `okta.roles.read` and in practice a super administrator (§3.7), so an org that refuses
    /// simply leaves them unknown.
    async fn admins(&self) -> Result<Arc<HashSet<String>>, ProviderError> {
        let known = self.admins.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, admins)) = known
            && at.elapsed() < ADMINS_FOR
        {
            return Ok(admins);
        }
        let admins = Arc::new(match listing::admins(&self.client).await {
            Ok(admins) => admins,
            Err(ProviderError::Refused(_)) => HashSet::new(),
            Err(error) => return Err(error),
        });
        *self.admins.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), Arc::clone(&admins)));
        Ok(admins)
    }

    /// Has the administrators read again.
    fn forget_admins(&self) {
        *self.admins.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[async_trait]
impl Provider for Okta {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Okta
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    async fn test(&self, wanted: &BTreeSet<Capability>) -> TestReport {
        probe::test(&self.client, &self.scope, wanted).await
    }

    async fn directory_id(&self) -> Result<String, ProviderError> {
        probe::organization(&self.client).await.map(|organization| organization.id)
    }

    async fn accounts(&self, listing: Listing, from: Option<&Cursor>) -> Result<Page, ProviderError> {
        let mut page = self.page(listing, from).await?;
        let admins = self.admins().await?;
        for account in &mut page.accounts {
            account.is_admin = admins.contains(&account.object_id);
        }
        Ok(page)
    }

    async fn account(&self, object_id: &str) -> Result<Option<Account>, ProviderError> {
        let mut account = self.read(object_id).await?;
        if let Some(account) = &mut account {
            account.is_admin = self.admins().await?.contains(&account.object_id);
        }
        Ok(account)
    }

    async fn memberships(
        &self,
        object_id: &str,
        of: GroupsAndRoles<'_>,
    ) -> Result<Vec<Membership>, ProviderError> {
        memberships::read(&self.client, object_id, of).await
    }

    async fn members(&self, of: GroupsAndRoles<'_>, most: usize) -> MembersRead {
        members::read(&self.client, of, most).await
    }

    async fn lockout_policy(&self) -> Result<LockoutPolicy, ProviderError> {
        self.strictest_policy().await
    }

    async fn lockout_threshold(&self, account: &Account) -> Result<Option<u32>, ProviderError> {
        self.threshold_of(account).await
    }

    async fn sign_ins(
        &self,
        object_id: &str,
        since: OffsetDateTime,
    ) -> Result<Option<SignIns>, ProviderError> {
        sign_ins::read(&self.client, object_id, since).await
    }

    async fn own_sign_ins(
        &self,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Option<Vec<OwnSignIn>>, ProviderError> {
        sign_ins::own(&self.client, from, until).await
    }

    async fn password_rules(&self) -> Result<Option<PasswordRules>, ProviderError> {
        self.weakest_rules().await
    }

    async fn containment(&self, object_id: &str, of: Action) -> Result<Option<Containment>, ProviderError> {
        let Some(user) = self.read_user(self.client.share(), object_id).await? else { return Ok(None) };
        // Okta tells nothing about sessions that were ended, and not when a risk was set.
        let (compromised, changed_at) = match of {
            Action::MarkCompromised => (risk::is_compromised(&self.client, object_id).await?, None),
            Action::DisableAccount => (None, user.status_changed_at()),
            Action::RevokeSessions => (None, None),
        };
        let state = Account::from(user).state;
        Ok(Some(Containment { state, sessions_valid_from: None, compromised, changed_at }))
    }

    async fn changed_by_others(
        &self,
        object_id: &str,
        of: Action,
        asked: Asked,
    ) -> Result<Others, ProviderError> {
        if of == Action::RevokeSessions {
            return Ok(None);
        }
        self.changes
            .tells((of, object_id), asked, changes::KEPT, |place| changes::page(&self.client, place))
            .await
    }

    async fn act(&self, action: Action, object_id: &str) -> Result<Acted, ProviderError> {
        self.carry_out(action, object_id).await
    }

    async fn undo(&self, action: Action, object_id: &str) -> Result<Acted, ProviderError> {
        self.take_back(action, object_id).await
    }

    fn verifier(&self) -> Option<&dyn Verifier> {
        Some(self)
    }
}

#[async_trait]
impl Verifier for Okta {
    async fn connect(&self) -> Result<AttemptConnection, ProviderError> {
        // A used-up bucket is noticed here, where it costs no attempt.
        self.client.admit(authn::BUCKET).await?;
        AttemptConnection::open(&self.egress, self.client.host()).await
    }

    async fn verify(
        &self,
        permit: AttemptPermit,
        connection: AttemptConnection,
        before: &Account,
        password: &SecretBytes,
    ) -> Attempted {
        authn::attempt(self, permit, connection, before, password).await
    }
}
