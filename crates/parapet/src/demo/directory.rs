//! The simulated directories of the demo, through the simulator's control port: what is true about each account,
//! and what the simulator saw being done to it. The judge believes this port and nothing Parapet says.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The simulator's control port.
#[derive(Clone, Debug)]
pub struct Control {
    base: String,
    client: reqwest::Client,
}

/// An account as it truly is.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    /// Immutable object id.
    pub id: String,
    /// Sign-in name.
    pub login: String,
    /// Life-cycle state.
    pub status: String,
    /// A guest of another directory.
    pub guest: bool,
    /// Who checks the password.
    pub authority: String,
    /// Mastered in an Active Directory, which writes back what somebody changes in the cloud.
    #[serde(default)]
    pub hybrid: bool,
    /// Administrator roles it holds.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The password.
    pub password: Option<String>,
    /// When it was set.
    #[serde(with = "time::serde::rfc3339::option")]
    pub password_changed: Option<OffsetDateTime>,
    /// Sessions begun earlier are dead.
    #[serde(with = "time::serde::rfc3339")]
    pub sessions_valid_from: OffsetDateTime,
}

impl Account {
    /// Whether a password can be tried at all: the directory itself checks it and the account can sign in.
    pub fn testable(&self) -> bool {
        self.status == "active" && !self.guest && self.authority == "cloud" && self.password.is_some()
    }
}

/// One line of the simulator's own log.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// Sequence.
    pub seq: u64,
    /// When the request was read.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Directory id.
    pub directory: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What the simulator saw.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A password was submitted.
    Submission {
        /// The account, when the name belongs to one.
        account: Option<String>,
        /// Whether the password was right.
        correct: Option<bool>,
        /// Over the wire, or by the simulated owner.
        by: String,
        /// This submission locked the account.
        locked: bool,
    },
    /// An account changed.
    Change(Change),
}

/// A change of an account.
#[derive(Clone, Debug, Deserialize)]
pub struct Change {
    /// The account.
    pub account: String,
    /// What was done: `disable`, `unsuspend`, `revoke_sessions`, `reverted`, …
    pub action: String,
    /// Client id of the application that did it, or `directory` for what happens by itself.
    pub actor: String,
}

/// A directory that was created for the demo.
#[derive(Clone, Debug, Serialize)]
pub struct Created {
    /// Immutable directory id.
    pub id: String,
    /// Name at the control port.
    pub name: String,
}

impl Control {
    /// Talks to the control port at `address`.
    pub fn new(address: std::net::SocketAddr) -> anyhow::Result<Self> {
        let client =
            reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_mins(1)).build()?;
        Ok(Self { base: format!("http://{address}"), client })
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.context("the simulator's control port does not answer")?;
        let status = response.status();
        let answer: Value =
            response.json().await.context("the simulator's control port answered without JSON")?;
        ensure!(status.is_success(), "the simulator refused {path}: {answer}");
        Ok(answer)
    }

    /// Creates or replaces a directory.
    pub async fn put(&self, spec: &Value) -> anyhow::Result<Created> {
        let shown = self.call(reqwest::Method::PUT, "/directories", Some(spec)).await?;
        let text =
            |key: &str| shown.get(key).and_then(Value::as_str).map(str::to_owned).context("no id or name");
        Ok(Created { id: text("id")?, name: text("name")? })
    }

    /// Merges into a directory's settings.
    pub async fn patch(&self, directory: &str, settings: &Value) -> anyhow::Result<()> {
        self.call(reqwest::Method::PATCH, &format!("/directories/{directory}"), Some(settings))
            .await
            .map(drop)
    }

    /// Merges into an account, found by its object id.
    pub async fn change(&self, directory: &str, account: &str, patch: &Value) -> anyhow::Result<()> {
        let path = format!("/directories/{directory}/accounts/{account}");
        self.call(reqwest::Method::PATCH, &path, Some(patch)).await.map(drop)
    }

    /// Makes the simulator misbehave.
    pub async fn fault(&self, fault: &Value) -> anyhow::Result<()> {
        self.call(reqwest::Method::POST, "/faults", Some(fault)).await.map(drop)
    }

    /// Ends all misbehaviour.
    pub async fn clear_faults(&self) -> anyhow::Result<()> {
        self.call(reqwest::Method::DELETE, "/faults", None).await.map(drop)
    }

    /// Up to a page of accounts from a position on, and where the next page starts.
    pub async fn page(&self, directory: &str, position: u64) -> anyhow::Result<(Vec<Account>, Option<u64>)> {
        #[derive(Deserialize)]
        struct Page {
            accounts: Vec<Account>,
            next: Option<u64>,
        }
        let path = format!("/directories/{directory}/accounts?position={position}&limit=1000");
        let page: Page = serde_json::from_value(self.call(reqwest::Method::GET, &path, None).await?)?;
        Ok((page.accounts, page.next))
    }

    /// Every account with its truth.
    pub async fn accounts(&self, directory: &str) -> anyhow::Result<Vec<Account>> {
        let (mut all, mut position) = (Vec::new(), 0);
        loop {
            let (accounts, next) = self.page(directory, position).await?;
            all.extend(accounts);
            match next {
                Some(next) => position = next,
                None => return Ok(all),
            }
        }
    }

    /// Everything the simulator logged about a directory.
    pub async fn log(&self, directory: &str) -> anyhow::Result<Vec<Entry>> {
        #[derive(Deserialize)]
        struct Page {
            entries: Vec<Entry>,
        }
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let path = format!("/log?after={after}&limit=1000&directory={directory}");
            let page: Page = serde_json::from_value(self.call(reqwest::Method::GET, &path, None).await?)?;
            match page.entries.last() {
                Some(last) => after = last.seq,
                None => return Ok(all),
            }
            all.extend(page.entries);
        }
    }
}

/// The Entra tenant of the demo: 5,000 accounts.
pub fn entra(seed: u64, as_of: OffsetDateTime, secret: &str) -> anyhow::Result<Value> {
    Ok(json!({
        "name": "northwind",
        "provider": {"entra_id": {
            "tenant_id": ENTRA_TENANT,
            "domains": [
                {"name": "northwind.example", "authority": "cloud"},
                {"name": "partners.northwind.example", "authority": "federated"},
                {"name": "plants.northwind.example", "authority": "pass_through"},
            ],
            "apps": [{
                "client_id": ENTRA_CLIENT,
                "name": "Parapet",
                "secrets": [{"value": secret}],
                "permissions": ["User.Read.All", "Directory.Read.All", "User.RevokeSessions.All",
                    "User.EnableDisableAccount.All", "IdentityRiskyUser.ReadWrite.All", "IdentityRiskyUser.Read.All"],
            }],
            "licences": ["P1", "P2"],
            // Active Directory is the master: its sync writes back what is changed here, in life every 30 minutes.
            "hybrid_writes": {"revert": {"after_s": WRITTEN_BACK_AFTER_S}},
        }},
        "generated": {"seed": seed, "count": 5000, "as_of": rfc3339(as_of)?},
    }))
}

/// The Okta org of the demo: 2,000 accounts. `jwks_uri` is patched in when the integration exists.
pub fn okta(seed: u64, as_of: OffsetDateTime) -> anyhow::Result<Value> {
    Ok(json!({
        "name": "fabrikam",
        "provider": {"okta": {"org_id": OKTA_ORG, "subdomain": "fabrikam", "mail_domain": "fabrikam.example"}},
        "generated": {"seed": seed + 1, "count": 2000, "as_of": rfc3339(as_of)?},
    }))
}

/// Seconds after which Active Directory writes back. The first check of a containment, at once, must come before.
pub const WRITTEN_BACK_AFTER_S: u32 = 10;
/// When the demo's executor reads a contained account again; everybody else's second look is after a minute.
pub const CHECK_AFTER_SECONDS: &str = "0,20,2100,3900";

/// Directory id of the demo's Entra tenant.
pub const ENTRA_TENANT: &str = "7c0f2f0e-5b5e-4c8e-9d3a-1d7f5f1c2a90";
/// Client id of our application in it.
pub const ENTRA_CLIENT: &str = "b7d5c9f4-2a61-4b0e-8f7c-93c1a4a7d512";
/// Id of the demo's Okta org.
const OKTA_ORG: &str = "00oDemoFabrikam00001";
/// Client id of our service app in the demo's Okta org.
pub const OKTA_CLIENT: &str = "0oa1parapetDemo01x7";

/// An instant as the formats of the demo write it.
pub fn rfc3339(at: OffsetDateTime) -> anyhow::Result<String> {
    Ok(at.replace_nanosecond(0)?.format(&time::format_description::well_known::Rfc3339)?)
}
