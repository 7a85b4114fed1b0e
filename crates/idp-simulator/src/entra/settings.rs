//! A tenant as specified: domains, application registrations, licences and the switches of its misbehaviour.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::model::Authority;

/// A Microsoft Entra ID tenant.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in a JSON file")]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Tenant GUID.
    pub tenant_id: String,
    /// The cloud it lives in.
    #[serde(default)]
    pub cloud: Cloud,
    /// Verified domains; the first is the default one.
    pub domains: Vec<Domain>,
    /// Application registrations with a service principal in this tenant.
    #[serde(default)]
    pub apps: Vec<App>,
    /// Licences the tenant owns.
    #[serde(default)]
    pub licences: Vec<Licence>,
    /// Smart lockout.
    #[serde(default)]
    pub lockout: Lockout,
    /// State of the pass-through authentication agents.
    #[serde(default)]
    pub agents: Agents,
    /// Whether the tenant holds the password hashes of accounts synchronised from AD.
    #[serde(default = "yes")]
    pub password_hash_sync: bool,
    /// Every sign-in is refused with 50053: the callers' address counts as malicious.
    #[serde(default)]
    pub address_blocked: bool,
    /// What becomes of `accountEnabled` written to an account mastered in AD.
    #[serde(default)]
    pub hybrid_writes: HybridWrites,
    /// What a sign-in at high risk meets.
    #[serde(default)]
    pub risk_policy: RiskPolicy,
    /// At most one Identity Protection call a second, throttled without a delay hint (entra.md §7.4).
    #[serde(default = "yes")]
    pub risk_throttling: bool,
    /// At most five calls of reports in ten seconds (entra.md §7.4).
    #[serde(default = "yes")]
    pub report_throttling: bool,
    /// Seconds after which a sign-in shows in the log.
    #[serde(default)]
    pub sign_in_log_lag_s: i64,
    /// Seconds after which a change shows in the audit log.
    #[serde(default)]
    pub audit_log_lag_s: i64,
    /// Resource units an application may use in ten seconds (a tenant of 500 users really has 8,000); null = no limit.
    #[serde(default)]
    pub resource_units: Option<u32>,
    /// Writes an application may make in 150 seconds (really 3,000); null = no limit.
    #[serde(default)]
    pub writes: Option<u32>,
    /// Seconds for which reading users still shows what was there before a change.
    #[serde(default)]
    pub read_lag_s: i64,
    /// Seconds for which a risk change is reported as still being processed.
    #[serde(default)]
    pub risk_processing_s: i64,
    /// Life of an access token.
    #[serde(default = "an_hour")]
    pub token_life_s: i64,
    /// Life of a `$skiptoken`.
    #[serde(default = "ten_minutes")]
    pub page_token_life_s: i64,
    /// Delta tokens issued before this instant answer 410 with a Location.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub delta_valid_from: Option<OffsetDateTime>,
    /// What removing somebody from a group answers who is not in it.
    #[serde(default)]
    pub not_a_member: NotAMember,
    /// HTTP status of a directory role that is assigned a second time: 400 or 409.
    #[serde(default = "bad_request")]
    pub role_conflict_status: u16,
    /// Objects on one page of a delta of groups, members included.
    #[serde(default = "two_hundred")]
    pub group_delta_page: usize,
    /// Every delta page after the first starts with the last object of the page before.
    #[serde(default)]
    pub delta_replays: bool,
}

fn yes() -> bool {
    true
}

fn an_hour() -> i64 {
    3599
}

fn ten_minutes() -> i64 {
    600
}

fn bad_request() -> u16 {
    400
}

fn two_hundred() -> usize {
    200
}

/// National clouds (entra.md §1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cloud {
    /// Worldwide.
    #[default]
    Global,
    /// US government, L4.
    UsGov,
    /// US government, L5.
    UsGovDod,
    /// China, operated by 21Vianet.
    China,
}

impl Cloud {
    /// All clouds.
    pub const ALL: [Self; 4] = [Self::Global, Self::UsGov, Self::UsGovDod, Self::China];

    /// Hosts of the token endpoint; the first is the one discovery names.
    pub fn login_hosts(self) -> &'static [&'static str] {
        match self {
            Self::Global => &["login.microsoftonline.com", "login.windows.net"],
            Self::UsGov | Self::UsGovDod => &["login.microsoftonline.us"],
            Self::China => &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
        }
    }

    /// Host of Microsoft Graph.
    pub fn graph_host(self) -> &'static str {
        match self {
            Self::Global => "graph.microsoft.com",
            Self::UsGov => "graph.microsoft.us",
            Self::UsGovDod => "dod-graph.microsoft.us",
            Self::China => "microsoftgraph.chinacloudapi.cn",
        }
    }
}

/// A verified domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Name.
    pub name: String,
    /// Who checks the passwords of its users: `cloud`, `pass_through` or `federated`.
    #[serde(default)]
    pub authority: Authority,
}

/// An application registration with its service principal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Client id.
    pub client_id: String,
    /// Name people see.
    #[serde(default)]
    pub name: String,
    /// Client secrets; an application without secrets and certificates is public.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// Certificates (PEM) for client assertions.
    #[serde(default)]
    pub certificates: Vec<String>,
    /// "Allow public client flows".
    #[serde(default)]
    pub public: bool,
    /// Granted application permissions, by value (`User.Read.All`).
    #[serde(default)]
    pub permissions: Vec<String>,
    /// Directory roles of the service principal, by display name.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Disabled applications get no token.
    #[serde(default)]
    pub disabled: bool,
    /// What its service principal stands for.
    #[serde(default)]
    pub kind: PrincipalKind,
    /// App roles it defines, which people, groups and applications can be assigned to.
    #[serde(default)]
    pub app_roles: Vec<AppRole>,
    /// Only who is assigned to it may sign in to it.
    #[serde(default)]
    pub assignment_required: bool,
}

/// What a service principal stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrincipalKind {
    /// An application.
    #[default]
    Application,
    /// A managed identity of Azure.
    ManagedIdentity,
}

/// An app role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRole {
    /// GUID.
    pub id: String,
    /// Value in the `roles` claim.
    pub value: String,
}

impl App {
    /// Object id of its service principal, derived from the client id.
    pub fn object_id(&self) -> String {
        crate::generate::derived_guid(&self.client_id)
    }
}

/// A client secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Its value.
    pub value: String,
    /// Refused before this instant, as a fresh secret is for some seconds.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub usable_from: Option<OffsetDateTime>,
    /// Expired from this instant on.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub expires: Option<OffsetDateTime>,
}

/// Licences that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Licence {
    /// Entra ID P1: sign-in activity, lockout customisation.
    P1,
    /// Entra ID P2: Identity Protection.
    P2,
    /// A product for schools: complex passwords are not asked for.
    Education,
}

/// Smart lockout (entra.md §6).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lockout {
    /// Wrong tries that lock; absent = the cloud's default (10, US government 3).
    pub threshold: Option<u32>,
    /// Seconds of the first lock; each further one lasts twice as long.
    pub duration_s: i64,
}

impl Default for Lockout {
    fn default() -> Self {
        Self { threshold: None, duration_s: 60 }
    }
}

/// State of the pass-through authentication agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Agents {
    /// Working.
    #[default]
    Up,
    /// AD answers too late: 80002, and AD may have counted the try.
    TimingOut,
    /// The agent itself is too slow: 80014, and AD may have counted the try.
    Slow,
    /// No agent reaches AD: 80001.
    Down,
}

/// What becomes of `accountEnabled` written to an account mastered in AD (entra.md §14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HybridWrites {
    /// 204 and it stays.
    #[default]
    Accept,
    /// 204, and the next synchronisation undoes it.
    Revert {
        /// Seconds until then.
        after_s: i64,
    },
    /// 400: mastered on premises.
    Refuse,
}

/// What removing somebody from a group answers who is not in it (entra.md §9 has seen both).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotAMember {
    /// 404 `Request_ResourceNotFound`.
    #[default]
    Missing,
    /// 400 `Request_BadRequest`.
    BadRequest,
}

/// What a sign-in at high user risk meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RiskPolicy {
    /// Nothing.
    #[default]
    None,
    /// 53003.
    Block,
    /// 50142.
    ChangePassword,
}

impl Settings {
    /// Wrong tries that lock an account.
    pub fn threshold(&self) -> u32 {
        self.lockout.threshold.unwrap_or(match self.cloud {
            Cloud::Global | Cloud::China => 10,
            Cloud::UsGov | Cloud::UsGovDod => 3,
        })
    }

    /// Who checks the password of a user with this name, by its domain.
    pub fn authority_of(&self, login: &str) -> Authority {
        let domain = login.rsplit_once('@').map_or("", |(_, domain)| domain);
        let found = self.domains.iter().find(|d| d.name.eq_ignore_ascii_case(domain));
        found.map_or(Authority::Cloud, |d| d.authority)
    }

    /// The application with this client id.
    pub fn app(&self, client_id: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.client_id.eq_ignore_ascii_case(client_id))
    }

    /// The application whose service principal has this object id.
    pub fn principal(&self, object_id: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.object_id() == object_id)
    }

    /// Whether the tenant owns a licence; P2 contains P1.
    pub fn licensed(&self, licence: Licence) -> bool {
        self.licences.contains(&licence) || (licence == Licence::P1 && self.licences.contains(&Licence::P2))
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        serde_json::from_value(serde_json::json!({
            "tenant_id": "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11",
            "domains": [
                {"name": "contoso.example"},
                {"name": "federated.contoso.example", "authority": "federated"},
                {"name": "pta.contoso.example", "authority": "pass_through"},
            ],
        }))
        .unwrap()
    }
}
