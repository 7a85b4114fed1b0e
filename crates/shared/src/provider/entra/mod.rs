//! Microsoft Entra ID through Microsoft Graph, and password checks through the token endpoint's password grant.
//!
//! Belongs here: Microsoft's wire. Wire facts and their sources are in the project's Entra reference; where Microsoft
//! documents nothing the code says what it assumes.

mod account;
mod actions;
mod changes;
mod check;
mod credential;
mod expiry;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzz;
mod graph;
mod listing;
mod members;
mod memberships;
pub mod permission;
mod policy;
mod risk;
mod ropc;
mod sign_ins;
mod token;
mod verdict;

pub use account::SELECT as USER_PROPERTIES;
pub use credential::{Certificate, CertificateError};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::Mutex;

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
    integration::{EntraCloud, EntraConnection, SyncScope},
    limiter::AttemptPermit,
    secret::SecretBytes,
};
use credential::Credential;
use graph::Graph;
use memberships::Visible;
use risk::Risks;
use token::Tokens;

/// Where a cloud's endpoints are (entra.md §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// The token endpoint.
    pub login: &'static str,
    /// Microsoft Graph.
    pub graph: &'static str,
}

impl EntraCloud {
    /// The hosts of this cloud. Nothing a customer supplies can name another.
    pub const fn hosts(self) -> Hosts {
        match self {
            Self::Global => Hosts { login: "login.microsoftonline.com", graph: "graph.microsoft.com" },
            Self::UsGov => Hosts { login: "login.microsoftonline.us", graph: "graph.microsoft.us" },
            Self::UsGovDod => Hosts { login: "login.microsoftonline.us", graph: "dod-graph.microsoft.us" },
            Self::China => {
                Hosts { login: "login.partner.microsoftonline.cn", graph: "microsoftgraph.chinacloudapi.cn" }
            }
        }
    }
}

/// One Entra tenant behind one application registration. Keep one value per integration: it caches the access token and
/// paces what Microsoft limits per tenant.
#[derive(Debug)]
pub struct Entra {
    connection: EntraConnection,
    credential: Arc<Credential>,
    scope: SyncScope,
    egress: Egress,
    graph: Graph,
    risk: Risks,
    facts: Mutex<Option<(OffsetDateTime, Arc<Facts>)>>,
    visible: Visible,
    changes: Log,
}

/// What reading an account needs to know about its tenant.
#[derive(Debug, Default)]
struct Facts {
    /// Domains whose passwords another identity provider checks, lower case.
    federated: BTreeSet<String>,
    /// Known not to hold the passwords of accounts synchronised from AD: pass-through authentication checks them.
    without_password_hashes: bool,
    /// Object ids known to hold a directory role directly.
    admins: BTreeSet<String>,
    /// Whether the last sign-in may be read.
    sign_in_activity: bool,
}

/// How long facts about the tenant are believed.
const FACTS_LIFE: time::Duration = time::Duration::minutes(10);

impl Entra {
    /// Prepares the adapter; nothing is sent yet. `secret` is the value of a client secret, or PEM with a certificate
    /// and its private key; refused when that cannot be used.
    pub fn new(
        egress: Egress,
        connection: EntraConnection,
        secret: SecretBytes,
    ) -> Result<Self, ProviderError> {
        let credential = Arc::new(Credential::read(secret).map_err(|error| {
            let message = error.to_string();
            ProviderError::Refused(Missing { reason: "certificate_unusable", message, not_granted: false })
        })?);
        let hosts = connection.cloud.hosts();
        let tokens = Tokens::new(egress.clone(), hosts, &connection, Arc::clone(&credential));
        let graph = Graph::new(egress.clone(), hosts.graph, tokens);
        let (scope, risk, facts) = (SyncScope::default(), Risks::default(), Mutex::new(None));
        let (visible, changes) = (Visible::default(), Log::default());
        Ok(Self { connection, credential, scope, egress, graph, risk, facts, visible, changes })
    }

    /// Takes no more than this share of the tenant's quota, together with the other adapters that lead to it.
    #[must_use]
    pub fn paced(self, pace: Arc<Pace>, share: Share) -> Self {
        Self { graph: self.graph.paced(pace, share), ..self }
    }

    /// Lists the accounts of this scope only.
    #[must_use]
    pub fn within(self, scope: SyncScope) -> Self {
        Self { scope, ..self }
    }

    /// Facts about the tenant, read at most every few minutes. What may not be read stays unknown.
    async fn facts(&self) -> Result<Arc<Facts>, ProviderError> {
        let mut cached = self.facts.lock().await;
        let now = OffsetDateTime::now_utc();
        if let Some((read, facts)) = &*cached
            && now - *read < FACTS_LIFE
        {
            return Ok(facts.clone());
        }
        let facts = Arc::new(Facts {
            federated: self.federated_domains().await?,
            without_password_hashes: self.without_password_hashes().await?,
            admins: self.admins().await?,
            sign_in_activity: self.may_read_sign_ins().await?,
        });
        *cached = Some((now, facts.clone()));
        Ok(facts)
    }

    async fn federated_domains(&self) -> Result<BTreeSet<String>, ProviderError> {
        #[derive(serde::Deserialize)]
        struct Domain {
            name: String,
            #[serde(rename = "type")]
            kind: Option<String>,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Organization {
            #[serde(default)]
            verified_domains: Vec<Domain>,
        }
        // Readable without any particular permission, unlike /domains.
        let all: Vec<Organization> = self.graph.list("/organization?$select=id,verifiedDomains").await?;
        let domains = all.into_iter().flat_map(|o| o.verified_domains);
        let federated = domains.filter(|d| d.kind.as_deref() == Some("Federated"));
        Ok(federated.map(|d| d.name.to_ascii_lowercase()).collect())
    }

    /// INVARIANT: true only when the tenant says so; not being allowed to ask means unknown.
    async fn without_password_hashes(&self) -> Result<bool, ProviderError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Features {
            password_sync_enabled: Option<bool>,
        }
        #[derive(serde::Deserialize)]
        struct Synchronization {
            features: Option<Features>,
        }
        let read = self.graph.list::<Synchronization>("/directory/onPremisesSynchronization").await;
        let all = optional(read)?.unwrap_or_default();
        let enabled = all.into_iter().filter_map(|s| s.features?.password_sync_enabled);
        Ok(enabled.into_iter().any(|enabled| !enabled))
    }

    /// Direct holders of directory roles. Holders through a group are not resolved here
    /// ([`Provider::memberships`] resolves those of named roles): they are protected by Microsoft's own
    /// refusal, which is reported as such.
    async fn admins(&self) -> Result<BTreeSet<String>, ProviderError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Assignment {
            principal_id: String,
        }
        let path = "/roleManagement/directory/roleAssignments?$select=principalId";
        let all = optional(self.graph.list::<Assignment>(path).await)?.unwrap_or_default();
        Ok(all.into_iter().map(|a| a.principal_id.to_ascii_lowercase()).collect())
    }

    async fn may_read_sign_ins(&self) -> Result<bool, ProviderError> {
        let permitted = self.graph.permissions().await?;
        if permitted.is_some_and(|roles| !roles.contains("AuditLog.Read.All")) {
            return Ok(false);
        }
        let probe = self.graph.get("/users?$top=1&$select=id,signInActivity").await;
        Ok(optional(probe)?.is_some())
    }
}

/// Turns "not granted" into `None`: what is optional must not break what is not.
fn optional<T>(read: Result<T, ProviderError>) -> Result<Option<T>, ProviderError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(ProviderError::Refused(Missing { not_granted: true, .. })) => Ok(None),
        Err(other) => Err(other),
    }
}

#[async_trait]
impl Provider for Entra {
    fn kind(&self) -> ProviderKind {
        ProviderKind::EntraId
    }

    fn capabilities(&self) -> &'static [Capability] {
        match self.connection.cloud {
            // Identity Protection's API does not exist there (entra.md §1).
            EntraCloud::China => &[
                Capability::Read,
                Capability::Validate,
                Capability::RevokeSessions,
                Capability::DisableAccount,
            ],
            EntraCloud::Global | EntraCloud::UsGov | EntraCloud::UsGovDod => &Capability::ALL,
        }
    }

    async fn test(&self, wanted: &BTreeSet<Capability>) -> TestReport {
        self.check(wanted).await
    }

    async fn directory_id(&self) -> Result<String, ProviderError> {
        Ok(self.organization().await?.id)
    }

    async fn accounts(&self, listing: Listing, from: Option<&Cursor>) -> Result<Page, ProviderError> {
        self.page(listing, from).await
    }

    async fn count(&self) -> Result<Option<i64>, ProviderError> {
        self.count_accounts().await.map(Some)
    }

    async fn account(&self, object_id: &str) -> Result<Option<Account>, ProviderError> {
        let facts = self.facts().await?;
        self.read_account(object_id, &facts).await
    }

    async fn memberships(
        &self,
        object_id: &str,
        of: GroupsAndRoles<'_>,
    ) -> Result<Vec<Membership>, ProviderError> {
        self.read_memberships(object_id, of).await
    }

    async fn members(&self, of: GroupsAndRoles<'_>, most: usize) -> MembersRead {
        self.read_members(of, most).await
    }

    /// "Password Rule Settings" exist only once somebody customised them; else the cloud's default holds (entra.md §6).
    async fn lockout_policy(&self) -> Result<LockoutPolicy, ProviderError> {
        #[derive(serde::Deserialize)]
        struct Value {
            name: String,
            value: Option<String>,
        }
        #[derive(serde::Deserialize)]
        struct Setting {
            #[serde(default)]
            values: Vec<Value>,
        }
        let (unread, default) = match self.connection.cloud {
            EntraCloud::Global | EntraCloud::China => (None, 10),
            EntraCloud::UsGov | EntraCloud::UsGovDod => (Some(3), 3),
        };
        let Some(settings) = optional(self.graph.list::<Setting>("/groupSettings").await)? else {
            return Ok(LockoutPolicy { threshold: unread });
        };
        let named: BTreeMap<String, String> =
            settings.into_iter().flat_map(|s| s.values).filter_map(|v| Some((v.name, v.value?))).collect();
        let threshold = match named.get("LockoutThreshold") {
            None => Some(default),
            Some(text) => text.trim().parse().ok().or(unread),
        };
        Ok(LockoutPolicy { threshold })
    }

    async fn sign_ins(
        &self,
        object_id: &str,
        since: OffsetDateTime,
    ) -> Result<Option<SignIns>, ProviderError> {
        self.read_sign_ins(object_id, since).await
    }

    async fn own_sign_ins(
        &self,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Option<Vec<OwnSignIn>>, ProviderError> {
        self.read_own_sign_ins(from, until).await
    }

    async fn password_rules(&self) -> Result<Option<PasswordRules>, ProviderError> {
        self.rules().await.map(Some)
    }

    async fn credential_expiry(&self) -> Result<Option<OffsetDateTime>, ProviderError> {
        self.expiry().await
    }

    async fn containment(&self, object_id: &str, of: Action) -> Result<Option<Containment>, ProviderError> {
        self.read_containment(object_id, of).await
    }

    /// Of a mark the risk itself shows the date: the log names it under no documented activity.
    async fn changed_by_others(
        &self,
        object_id: &str,
        of: Action,
        asked: Asked,
    ) -> Result<Others, ProviderError> {
        match of {
            Action::DisableAccount => self.enabled_by_others(object_id, asked).await,
            Action::RevokeSessions | Action::MarkCompromised => Ok(None),
        }
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
impl Verifier for Entra {
    async fn connect(&self) -> Result<AttemptConnection, ProviderError> {
        AttemptConnection::open(&self.egress, self.connection.cloud.hosts().login).await
    }

    async fn verify(
        &self,
        permit: AttemptPermit,
        connection: AttemptConnection,
        before: &Account,
        password: &SecretBytes,
    ) -> Attempted {
        self.submit(permit, connection, before, password).await
    }
}
