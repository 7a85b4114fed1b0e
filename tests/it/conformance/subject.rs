//! Who the sentences are said about: each provider with what may rightly differ, a directory and an adapter for it.

use std::sync::Arc;

use e2e::{Idp, Permits};
use idp_simulator::model::{Directory, Kind, Link};
use serde_json::{Value, json};
use shared::id::ProviderKind;
use shared::integration::{EntraCloud, EntraConnection, OktaConnection, SyncScope};
use shared::provider::{
    Account, Action, Attempted, Provider,
    entra::Entra,
    http::Egress,
    okta::{Okta, keys},
};
use shared::secret::SecretBytes;
use shared::verdict::{Reason, Verdict};

use super::rows::{self, Ends, Proof};

/// The password of every account.
pub const RIGHT: &str = "right horse battery";
/// Accounts `p0` to `p9`: an attempt each, so that spacing is no matter.
const PLAIN: usize = 10;

/// What a provider is called, and where the sentences may rightly differ: with the reason, as data.
pub struct Subject {
    pub kind: ProviderKind,
    pub domain: &'static str,
    pub directory_id: &'static str,
    /// Most accounts of one page: Graph's and Okta's own caps.
    pub page: usize,
    pub listing: &'static str,
    /// Fault operation of the log of changes.
    pub changes: &'static str,
    pub password: &'static str,
    /// Where a redirect of a password would be answered.
    pub sign_in_url: &'static str,
    /// Where a redirect of a listing would be answered.
    pub listing_url: &'static str,
    pub nobody: &'static str,
    /// Ids that groups of a directory can have.
    pub groups: [&'static str; 3],
    /// A role of the directory.
    pub role: &'static str,
    /// What it takes to read the groups of an account, and its roles.
    pub membership_permissions: [&'static str; 2],
    /// How a disabled account is spelled in the simulator.
    pub disabled: &'static str,
    /// Entra says that an account is disabled; Okta answers a suspended one as it answers a wrong password.
    pub disabled_verdict: Verdict,
    /// How this provider hints at a delay of so many seconds.
    pub hint: fn(u64) -> Value,
    /// Entra documents 5xx as codes to wait for; of Okta's nothing is known.
    pub outage: Reason,
    /// Entra tells since when sessions are valid; Okta does not.
    pub tells_sessions: bool,
    /// Every answer to a password, and what it proves.
    pub answers: fn() -> Vec<(Value, Proof)>,
    /// Every state of an account, and how the actions end in it.
    pub states: fn() -> Vec<(Value, Ends)>,
}

pub const ENTRA_ID: Subject = Subject {
    kind: ProviderKind::EntraId,
    domain: "contoso.example",
    directory_id: "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11",
    page: 999,
    listing: "graph.users.list",
    changes: "graph.audits",
    password: "entra.password",
    sign_in_url: "https://login.microsoftonline.com/8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11/oauth2/v2.0/token",
    listing_url: "https://graph.microsoft.com/v1.0/users",
    nobody: "00000000-0000-4000-8000-000000000000",
    groups: [
        "6d1f8f6e-1f0a-4a53-9d2e-000000000001",
        "6d1f8f6e-1f0a-4a53-9d2e-000000000002",
        "6d1f8f6e-1f0a-4a53-9d2e-000000000003",
    ],
    role: "User Administrator",
    membership_permissions: ["GroupMember.Read.All", "RoleManagement.Read.Directory"],
    disabled: "disabled",
    disabled_verdict: Verdict::NotTestable(Reason::AccountDisabled),
    hint: |seconds| json!({ "seconds": seconds }),
    outage: Reason::Unavailable,
    tells_sessions: true,
    answers: rows::entra_id,
    states: rows::entra_id_states,
};

pub const OKTA: Subject = Subject {
    kind: ProviderKind::Okta,
    domain: "acme.example",
    directory_id: "00oacme0000000000001",
    page: 200,
    listing: "okta.users.list",
    changes: "okta.logs",
    password: "okta.password",
    sign_in_url: "https://acme.okta.com/api/v1/authn",
    listing_url: "https://acme.okta.com/api/v1/users?limit=200",
    nobody: "00unobody00000000000",
    groups: ["00gpilot000000000001", "00gpilot000000000002", "00gpilot000000000003"],
    role: "USER_ADMIN",
    membership_permissions: ["okta.groups.read", "okta.roles.read"],
    disabled: "suspended",
    disabled_verdict: Verdict::Inconclusive(Reason::AccountState),
    hint: |seconds| json!({ "rate_limit_reset": seconds }),
    outage: Reason::Unknown,
    tells_sessions: false,
    answers: rows::okta,
    states: rows::okta_states,
};

/// A directory, an adapter for it, and the simulator both live on.
pub struct Stage {
    pub of: &'static Subject,
    pub idp: Idp,
    pub provider: Box<dyn Provider>,
    pub directory: Arc<Directory>,
    make: Make,
}

/// Makes an adapter for a directory.
pub type Make = Box<dyn Fn(Egress, SyncScope) -> Box<dyn Provider>>;

impl Stage {
    pub async fn with(of: &'static Subject, accounts: Value, granted: Granted) -> Self {
        let idp = Idp::start().await;
        let (mut spec, make) = directory(of, granted);
        idp_simulator::model::merge(&mut spec, &accounts);
        let directory = idp.directory(spec);
        let provider = make(idp.egress(), SyncScope::default());
        Self { of, idp, provider, directory, make }
    }

    /// An adapter that covers the members of these groups only.
    pub fn scoped(&self, groups: &[&str]) -> Box<dyn Provider> {
        let group_ids = groups.iter().map(|&group| group.to_owned()).collect();
        (self.make)(self.idp.egress(), SyncScope { group_ids })
    }

    pub async fn people(of: &'static Subject) -> Self {
        Self::with(of, json!({ "accounts": people(of) }), Granted::All).await
    }

    pub fn id(&self, name: &str) -> String {
        self.directory.accounts.by_login(&format!("{name}@{}", self.of.domain)).unwrap().id
    }

    pub fn patch(&self, name: &str, patch: &Value) {
        let now = self.idp.simulator.world.now();
        self.directory.accounts.patch(&self.id(name), patch, now).unwrap().unwrap();
    }

    /// Makes somebody a member of a group.
    pub fn join(&self, group: &str, name: &str) {
        let link = Link::new(Kind::Member, group, &self.id(name));
        self.directory.links.set(link, true, self.idp.simulator.world.now());
    }

    pub async fn account(&self, name: &str) -> Account {
        self.provider.account(&self.id(name)).await.unwrap().unwrap()
    }

    /// Submits once, with the account as read before, and settles the attempt.
    pub async fn verify(&self, permits: &Permits, before: &Account, password: &str) -> Attempted {
        self.verify_for(permits, before, before, password).await
    }

    /// The same, with the attempt taken from another account's budget.
    pub async fn verify_for(
        &self,
        permits: &Permits,
        payer: &Account,
        before: &Account,
        password: &str,
    ) -> Attempted {
        let verifier = self.provider.verifier().unwrap();
        let connection = verifier.connect().await.unwrap();
        let (permit, ticket) = permits.ask(self.of.kind, self.of.directory_id, payer).await.unwrap();
        let secret = SecretBytes::new(password.into());
        let attempted = verifier.verify(permit, connection, before, &secret).await;
        permits.settle(&ticket, &attempted).await;
        // INVARIANT: whatever the answer, the judge saw as many submissions as there were permits.
        assert_eq!(self.idp.submissions().len(), permits.used().await);
        attempted
    }

    pub fn fault(&self, operation: &str, effect: &Value) {
        self.idp.fault(json!({"operation": operation, "effect": effect}));
    }

    pub fn actions(&self) -> impl Iterator<Item = Action> {
        let offered = self.provider.capabilities();
        Action::ALL.into_iter().filter(|action| offered.contains(&action.capability()))
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Granted {
    All,
    ReadingOnly,
}

pub fn people(of: &Subject) -> Value {
    let login = |name: &str| format!("{name}@{}", of.domain);
    let mut people = vec![
        json!({"login": login("mfa"), "password": RIGHT, "second_factor": "required"}),
        json!({"login": login("old"), "password": RIGHT, "password_expired": true}),
        json!({"login": login("off"), "password": RIGHT, "status": of.disabled}),
    ];
    people.extend((0..PLAIN).map(|n| json!({"login": login(&format!("p{n}")), "password": RIGHT})));
    Value::from(people)
}

/// A directory without accounts, and what makes adapters for it.
pub fn directory(of: &Subject, granted: Granted) -> (Value, Make) {
    match of.kind {
        ProviderKind::EntraId => entra(of, granted),
        ProviderKind::Okta => okta(of, granted),
    }
}

fn entra(of: &Subject, granted: Granted) -> (Value, Make) {
    const APP: &str = "11111111-2222-4333-8444-555555555555";
    const CHECKER: &str = "22222222-3333-4444-8555-666666666666";
    const SECRET: &str = "Zx8Q~secret+value/with=signs";
    let permissions: &[&str] = match granted {
        Granted::ReadingOnly => &["User.Read.All"],
        Granted::All => &[
            "User.Read.All",
            "User.RevokeSessions.All",
            "User.EnableDisableAccount.All",
            "IdentityRiskyUser.ReadWrite.All",
            "IdentityRiskyUser.Read.All",
            "AuditLog.Read.All",
            "Directory.Read.All",
        ],
    };
    let tenant = json!({
        "tenant_id": of.directory_id,
        "domains": [{"name": of.domain}],
        "apps": [
            {"client_id": APP, "secrets": [{"value": SECRET}], "permissions": permissions},
            {"client_id": CHECKER, "public": true},
        ],
        "licences": ["P2"],
        "risk_throttling": false,
    });
    let connection = EntraConnection {
        cloud: EntraCloud::Global,
        tenant: of.directory_id.into(),
        client_id: APP.into(),
        ropc_client_id: Some(CHECKER.into()),
    };
    let make: Make = Box::new(move |egress, scope| {
        Box::new(
            Entra::new(egress, connection.clone(), SecretBytes::new(SECRET.into())).unwrap().within(scope),
        )
    });
    (json!({"name": "Contoso", "provider": {"entra_id": tenant}}), make)
}

fn okta(of: &Subject, granted: Granted) -> (Value, Make) {
    const CLIENT: &str = "0oaparapet0000000001";
    let scopes: &[&str] = match granted {
        Granted::ReadingOnly => &["okta.users.read"],
        Granted::All => &[
            "okta.users.read",
            "okta.users.manage",
            "okta.groups.read",
            "okta.policies.read",
            "okta.roles.read",
            "okta.logs.read",
            "okta.userRisk.manage",
            "okta.userRisk.read",
        ],
    };
    let key = keys::generate().unwrap();
    let org = json!({
        "org_id": of.directory_id,
        "subdomain": "acme",
        "mail_domain": of.domain,
        "apps": [{"client_id": CLIENT, "scopes": scopes, "roles": ["SUPER_ADMIN"],
                  "jwks": keys::jwks(std::slice::from_ref(&key.public))}],
    });
    let connection = OktaConnection { host: "acme.okta.com".into(), client_id: CLIENT.into() };
    let make: Make = Box::new(move |egress, scope| {
        Box::new(Okta::new(&connection, &key.kid, &key.pkcs8, egress).unwrap().within(scope))
    });
    (json!({"name": "Acme", "provider": {"okta": org}}), make)
}
