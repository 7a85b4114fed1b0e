//! An org as specified: service apps, password policies, buckets and the switches of its misbehaviour.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An Okta org.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of an org, named as its JSON names them"
)]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Org id, `00o…`.
    pub org_id: String,
    /// `{subdomain}.okta.com`.
    pub subdomain: String,
    /// A further name it answers to, its custom domain.
    #[serde(default)]
    pub custom_domain: Option<String>,
    /// Domain of generated logins.
    pub mail_domain: String,
    /// Wrong tries that lock an account; 0 = never. The default password policy says so.
    #[serde(default = "ten")]
    pub max_attempts: u32,
    /// Minutes after which a lock ends by itself; 0 = never.
    #[serde(default)]
    pub auto_unlock_minutes: u32,
    /// A locked account's sign-in answers LOCKED_OUT; by default it looks like a wrong password.
    #[serde(default)]
    pub show_lockout_failures: bool,
    /// Reaching the limit locks only devices the user does not know (such as ours); the user stays ACTIVE.
    #[serde(default)]
    pub unknown_device_lockout: bool,
    /// The org has the feature of user blocks.
    #[serde(default = "yes")]
    pub blocks_feature: bool,
    /// The org has Identity Threat Protection: users have a risk that can be set.
    #[serde(default = "yes")]
    pub threat_protection: bool,
    /// Which engine runs the org.
    #[serde(default)]
    pub pipeline: Pipeline,
    /// Seconds for which `search` still finds users as they were before a change.
    #[serde(default)]
    pub search_lag_s: i64,
    /// Characters a password needs at least. The default password policy says so.
    #[serde(default = "eight")]
    pub min_length: u32,
    /// Password policies before the default one, in the order of their priority.
    #[serde(default)]
    pub policies: Vec<Policy>,
    /// Service apps.
    #[serde(default)]
    pub apps: Vec<App>,
    /// How the sign-in endpoint behaves.
    #[serde(default)]
    pub authn: Authn,
    /// Sign-ins per second and user name.
    #[serde(default = "four")]
    pub sign_ins_per_second: u32,
    /// DPoP nonces in force, newest first. Real ones rotate daily and stay valid for three days.
    #[serde(default = "first_nonce")]
    pub dpop_nonces: Vec<String>,
    /// The API asks for a nonce too, as RFC 9449 allows and Okta today does not.
    #[serde(default)]
    pub api_nonce: bool,
    /// Seconds for which an app's keys are kept before they are fetched again.
    #[serde(default = "an_hour_exactly")]
    pub jwks_life_s: f64,
    /// A `kid` that the kept keys lack has them fetched again; not documented of Okta, so a client must not need it.
    #[serde(default = "yes")]
    pub jwks_refetch: bool,
    /// Life of an access token, in seconds.
    #[serde(default = "an_hour")]
    pub token_life_s: i64,
    /// Calls a minute per bucket; null = no limits and no headers.
    #[serde(default = "some_buckets")]
    pub buckets: Option<Buckets>,
    /// Most events on a page of the System Log, however many are asked for.
    #[serde(default = "a_thousand")]
    pub log_page: usize,
    /// `errorCauses` of a refusal is an object, as some of the documentation shows it, and no list.
    #[serde(default)]
    pub causes_as_object: bool,
    /// Event hooks deliver everything twice.
    #[serde(default)]
    pub hook_duplicates: bool,
    /// Custom roles.
    #[serde(default)]
    pub custom_roles: Vec<CustomRole>,
    /// Resource sets.
    #[serde(default)]
    pub resource_sets: Vec<ResourceSet>,
}

/// A custom role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomRole {
    /// Id, `cr0…`.
    pub id: String,
    /// Name people see.
    pub label: String,
    /// Permissions such as `okta.users.read`.
    #[serde(default)]
    pub permissions: Vec<String>,
}

/// A resource set with the roles bound to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceSet {
    /// Id, `iam…`.
    pub id: String,
    /// Name people see.
    pub label: String,
    /// Names of resources, `orn:okta:directory:…`.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Who holds which custom role over them.
    #[serde(default)]
    pub bindings: Vec<Binding>,
}

/// A custom role bound to a resource set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Id of the custom role.
    pub role: String,
    /// Ids of users and groups.
    #[serde(default)]
    pub members: Vec<String>,
}

/// Which engine runs an org.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pipeline {
    /// Identity Engine.
    #[default]
    Idx,
    /// Classic Engine. It knows no scopes of user risk.
    V1,
}

/// A service app.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Client id, `0oa…`.
    pub client_id: String,
    /// False: deactivated.
    #[serde(default = "yes")]
    pub active: bool,
    /// Where its keys are; loopback may use plain HTTP.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// Keys saved in the app, when there is no URL.
    #[serde(default)]
    pub jwks: Option<Value>,
    /// "Require Demonstrating Proof of Possession".
    #[serde(default)]
    pub dpop: Dpop,
    /// A native application with the grant type Resource Owner Password.
    #[serde(default)]
    pub password_grant: bool,
    /// Its client secret; null = a public client.
    #[serde(default)]
    pub secret: Option<String>,
    /// Granted scopes.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Admin roles: standard role types, or single permissions as a custom role has them.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Ids of the users its role covers; null = all.
    #[serde(default)]
    pub covers: Option<Vec<String>>,
    /// Ids of the groups its role covers; null = all.
    #[serde(default)]
    pub covers_groups: Option<Vec<String>>,
    /// False: the caller's address is outside the app's network zones.
    #[serde(default = "yes")]
    pub in_zone: bool,
    /// Share of every bucket it may use, in per cent.
    #[serde(default = "half")]
    pub share_percent: u32,
}

/// What a token request has to prove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dpop {
    /// Nothing; a proof is ignored.
    Off,
    /// A proof without a nonce will do.
    Required,
    /// A proof with a nonce in force, as live orgs ask for it.
    #[default]
    Nonce,
}

/// A password policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Name people see.
    pub name: String,
    /// `lockout.maxAttempts`.
    pub max_attempts: u32,
    /// Ids of the groups it applies to.
    #[serde(default)]
    pub groups: Vec<String>,
    /// False: INACTIVE.
    #[serde(default = "yes")]
    pub active: bool,
    /// `complexity.minLength`.
    #[serde(default = "eight")]
    pub min_length: u32,
    /// When it changed last.
    #[serde(default = "once")]
    pub updated: String,
}

/// How the sign-in endpoint behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authn {
    /// As documented.
    #[default]
    Available,
    /// 410 for everybody.
    Withdrawn,
    /// 403 for everybody: the caller's address is blocked.
    Blocked,
    /// Asks for a factor before it looks at the password (factor sequencing).
    FactorsFirst,
    /// 401 for everybody: a sign-on policy denies, which looks like a wrong password.
    Denied,
}

/// Calls a minute (okta.md §7.2). An application may use half of a bucket; sign-ins have theirs whole.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Buckets {
    /// Listing users.
    pub users: u32,
    /// Reading one user.
    pub user: u32,
    /// Changing one user.
    pub user_write: u32,
    /// `/api/v1/authn`.
    pub authn: u32,
    /// `/oauth2/v1/token`.
    pub token: u32,
    /// `/api/v1/logs`.
    pub logs: u32,
    /// Everything else below `/api/v1`.
    pub other: u32,
}

impl Default for Buckets {
    /// A workforce org of 100,000 licences: sign-ins and single reads ten times the base.
    fn default() -> Self {
        Self { users: 600, user: 20_000, user_write: 600, authn: 5000, token: 2000, logs: 120, other: 1200 }
    }
}

fn yes() -> bool {
    true
}
fn four() -> u32 {
    4
}
fn a_thousand() -> usize {
    1000
}
fn half() -> u32 {
    50
}
fn ten() -> u32 {
    10
}
fn eight() -> u32 {
    8
}
fn once() -> String {
    "2026-01-01T00:00:00.000Z".into()
}
fn an_hour() -> i64 {
    3600
}
fn an_hour_exactly() -> f64 {
    3600.0
}
fn first_nonce() -> Vec<String> {
    vec!["bm9uY2UtMQ".into()]
}
#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn some_buckets() -> Option<Buckets> {
    Some(Buckets::default())
}

impl Settings {
    /// The app with this client id.
    pub fn app(&self, client_id: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.client_id == client_id)
    }
}
