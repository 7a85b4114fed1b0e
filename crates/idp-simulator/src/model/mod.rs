//! What a directory is: its provider's settings, its groups and its accounts.

mod account;
mod accounts;
mod groups;
mod links;

use std::sync::{Arc, RwLock};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use account::{Account, Authority, By, Lock, Risk, SecondFactor, Status};
pub use accounts::{Accounts, merge};
pub use groups::{Group, GroupKind, Membership};
pub use links::{Kind, Link, Links, Written};

use crate::generate::{Generated, Plan};
use crate::sync::{read, write};
use crate::{entra, okta};

/// A directory as a file or the control port describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectorySpec {
    /// Name people see; also a way to address the directory at the control port.
    pub name: String,
    /// The provider and its settings: `{"entra_id": {…}}` or `{"okta": {…}}`.
    pub provider: Settings,
    /// Accounts derived from a seed.
    #[serde(default)]
    pub generated: Option<Generated>,
    /// Accounts told one by one; members as in [`Account`], only `login` is needed.
    #[serde(default)]
    pub accounts: Vec<serde_json::Value>,
    /// Groups over these accounts.
    #[serde(default)]
    pub groups: Vec<Group>,
}

/// Settings of a directory, by provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settings {
    /// A Microsoft Entra ID tenant.
    EntraId(entra::Settings),
    /// An Okta org.
    Okta(okta::Settings),
}

/// One directory in the running simulator.
#[derive(Debug)]
pub struct Directory {
    /// Immutable directory id: tenant GUID or `00o…`.
    pub id: String,
    /// Name people see.
    pub name: String,
    /// Its accounts.
    pub accounts: Accounts,
    /// Its groups.
    pub groups: Vec<Group>,
    /// What was written between its objects since it was made.
    pub links: Links,
    settings: RwLock<Arc<Settings>>,
}

impl Directory {
    /// Builds the directory a specification describes.
    pub fn build(spec: DirectorySpec, now: OffsetDateTime) -> anyhow::Result<Self> {
        let DirectorySpec { name, provider, generated, accounts, groups } = spec;
        let id = match &provider {
            Settings::EntraId(entra) => entra.tenant_id.clone(),
            Settings::Okta(okta) => okta.org_id.clone(),
        };
        anyhow::ensure!(!id.is_empty(), "directory {name}: its immutable id is empty");
        let plan = generated.map(|generated| Plan::new(generated, &provider)).transpose()?;
        let built = Self {
            id,
            name,
            accounts: Accounts::new(plan),
            groups,
            links: Links::default(),
            settings: RwLock::new(Arc::new(provider)),
        };
        // What a directory is made with is no change; only later ones lag.
        for account in &accounts {
            built.accounts.add(account, &built.settings(), now)?;
        }
        built.accounts.set_lag(built.settings().lag_s());
        built.links.set_lag(built.settings().lag_s());
        Ok(built)
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&read(&self.settings))
    }

    /// Replaces the settings.
    pub fn set_settings(&self, settings: Settings) {
        self.accounts.set_lag(settings.lag_s());
        self.links.set_lag(settings.lag_s());
        *write(&self.settings) = Arc::new(settings);
    }

    /// Changes the settings in place.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(Arc::make_mut(&mut write(&self.settings)));
    }

    /// Whether `key` names this directory: its id, name, Okta subdomain or one of its verified domains.
    pub fn answers_to(&self, key: &str) -> bool {
        if key.eq_ignore_ascii_case(&self.id) || key.eq_ignore_ascii_case(&self.name) {
            return true;
        }
        match &*self.settings() {
            Settings::EntraId(entra) => entra.domains.iter().any(|d| d.name.eq_ignore_ascii_case(key)),
            Settings::Okta(okta) => okta.subdomain.eq_ignore_ascii_case(key),
        }
    }
}

impl Settings {
    /// Seconds for which lagging readers see what was there before a change.
    fn lag_s(&self) -> i64 {
        match self {
            Self::EntraId(entra) => entra.read_lag_s,
            Self::Okta(okta) => okta.search_lag_s,
        }
    }

    /// `entra_id` or `okta`.
    pub fn provider(&self) -> &'static str {
        match self {
            Self::EntraId(_) => "entra_id",
            Self::Okta(_) => "okta",
        }
    }
}
