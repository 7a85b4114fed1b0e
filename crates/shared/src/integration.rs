//! An integration's configuration and settings, as stored in JSON columns by integration-api and read by all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    id::ProviderKind,
    provider::{Action, Capability},
    triage::Rule,
};

/// How to reach a directory. No secret is part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Connection {
    /// Microsoft Entra ID.
    EntraId(EntraConnection),
    /// Okta.
    Okta(OktaConnection),
}

impl Connection {
    /// The kind of provider it leads to.
    pub const fn provider(&self) -> ProviderKind {
        match self {
            Self::EntraId(_) => ProviderKind::EntraId,
            Self::Okta(_) => ProviderKind::Okta,
        }
    }

    /// In the US government cloud, where an unknown lockout threshold counts as 3.
    pub fn is_us_gov(&self) -> bool {
        match self {
            Self::EntraId(entra) => match entra.cloud {
                EntraCloud::UsGov | EntraCloud::UsGovDod => true,
                EntraCloud::Global | EntraCloud::China => false,
            },
            Self::Okta(_) => false,
        }
    }

    /// Whether both lead to the same place, whoever comes there.
    pub fn same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::EntraId(one), Self::EntraId(other)) => {
                (one.cloud, &one.tenant) == (other.cloud, &other.tenant)
            }
            (Self::Okta(one), Self::Okta(other)) => one.host == other.host,
            (Self::EntraId(_), Self::Okta(_)) | (Self::Okta(_), Self::EntraId(_)) => false,
        }
    }

    /// Whether any of these addresses or host names is the directory's own sign-in page. Entra ID's is everybody's: the
    /// record's identity says whose directory it is.
    pub fn signs_in_at(&self, targets: &[String]) -> bool {
        let page = match self {
            Self::EntraId(entra) => entra.cloud.hosts().login,
            Self::Okta(okta) => okta.host.as_str(),
        };
        targets.iter().any(|target| {
            let rest = target.split_once("://").map_or(target.as_str(), |(_, rest)| rest);
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            host.split(':').next().unwrap_or_default().trim_end_matches('.').eq_ignore_ascii_case(page)
        })
    }
}

/// Where an Entra tenant lives and as which application we come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntraConnection {
    /// Which national cloud.
    pub cloud: EntraCloud,
    /// Tenant GUID or a verified domain.
    pub tenant: String,
    /// Application (client) id for Graph.
    pub client_id: String,
    /// Application id for the password check; without it the Graph application is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ropc_client_id: Option<String>,
}

/// A national cloud of Microsoft (entra.md §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntraCloud {
    /// Worldwide, including GCC.
    Global,
    /// US government L4, GCC High.
    UsGov,
    /// US government L5, DoD.
    UsGovDod,
    /// China, operated by 21Vianet.
    China,
}

/// Where an Okta org lives and as which service app we come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OktaConnection {
    /// Host name only, lower case, for example `acme.okta.com`.
    pub host: String,
    /// Client id of the service app.
    pub client_id: String,
}

/// What an integration is allowed to do, switch by switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Make identity profiles and identifiers from synced accounts.
    pub identity_creation: bool,
    /// Password validation.
    pub validation: ValidationSettings,
    /// Containment.
    pub mitigation: MitigationSettings,
    /// Which accounts are read.
    pub scope: SyncScope,
    /// The part of the directory's quota of calls that each process takes at most, in percent, 1 to 100: the rest is
    /// for the customer's other tools.
    pub quota_percent: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            identity_creation: false,
            validation: ValidationSettings::default(),
            mitigation: MitigationSettings::default(),
            scope: SyncScope::default(),
            quota_percent: 25,
        }
    }
}

/// Which accounts of its directory an integration covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncScope {
    /// Object ids of the groups whose members are covered (at Entra ID nested ones too). Empty: the whole directory.
    pub group_ids: Vec<String>,
}

impl SyncScope {
    /// Most groups in a scope.
    pub const MOST_GROUPS: usize = 20;

    /// Whether every account of the directory is covered.
    pub fn is_whole(&self) -> bool {
        self.group_ids.is_empty()
    }
}

/// Switches and limits of validation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationSettings {
    /// Validate new exposures by themselves.
    pub automated: bool,
    /// Let analysts ask for validation.
    pub manual: bool,
    /// Attempts per account in any 24 hours, 1 to 5 (design §5).
    pub daily_max: u32,
    /// Try accounts whose password lives in Active Directory, against an assumed threshold of 5.
    pub allow_ad_backed: bool,
    /// With a lockout threshold of 4 or less: allow one attempt in total since the owner's last sign-in.
    pub low_threshold_opt_in: bool,
    /// Rules of triage that are switched off; only such as may be.
    pub rules_off: BTreeSet<Rule>,
}

impl Default for ValidationSettings {
    fn default() -> Self {
        Self {
            automated: false,
            manual: true,
            daily_max: 2,
            allow_ad_backed: false,
            low_threshold_opt_in: false,
            rules_off: BTreeSet::new(),
        }
    }
}

/// The switches per action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MitigationSettings {
    /// Revoke sessions.
    pub revoke_sessions: ActionSwitch,
    /// Disable or suspend.
    pub disable_account: ActionSwitch,
    /// Mark as compromised.
    pub mark_compromised: ActionSwitch,
}

/// One action's switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionSwitch {
    /// Carried out by itself after a valid verdict.
    pub automated: bool,
    /// Analysts may ask for it.
    pub manual: bool,
}

impl MitigationSettings {
    /// The switches of one action.
    pub const fn switch(&self, action: Action) -> ActionSwitch {
        match action {
            Action::RevokeSessions => self.revoke_sessions,
            Action::DisableAccount => self.disable_account,
            Action::MarkCompromised => self.mark_compromised,
        }
    }
    /// The actions that follow a valid verdict by themselves, in order.
    pub fn automated(&self) -> impl Iterator<Item = Action> + '_ {
        Action::ALL.into_iter().filter(|a| self.switch(*a).automated)
    }
}

impl Settings {
    /// Whether exposures are validated by themselves: asked for directly, or because an automated mitigation
    /// needs the verdict (design §11).
    pub fn validates_automatically(&self) -> bool {
        self.validation.automated || self.mitigation.automated().next().is_some()
    }
    /// The capabilities a connection test has to try.
    pub fn capabilities(&self) -> BTreeSet<Capability> {
        let mut wanted = BTreeSet::from([Capability::Read]);
        if self.validation.manual || self.validates_automatically() {
            wanted.insert(Capability::Validate);
        }
        for action in Action::ALL {
            let switch = self.mitigation.switch(action);
            if switch.automated || switch.manual {
                wanted.insert(action.capability());
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_were_stored_before_rules_could_be_switched_off_have_them_all_on() {
        let stored = r#"{"validation": {"automated": true, "daily_max": 2}}"#;
        let settings: Settings = serde_json::from_str(stored).unwrap();
        assert_eq!(settings.validation.rules_off, BTreeSet::new());
    }

    #[test]
    fn a_directory_s_own_sign_in_page_is_told_from_its_look_alikes() {
        let okta = Connection::Okta(OktaConnection { host: "acme.okta.com".into(), client_id: "c".into() });
        for (target, expected) in [
            ("https://acme.okta.com/login/login.htm?fromURI=x", true),
            ("ACME.okta.com", true),
            ("https://ann@acme.okta.com:443/", true),
            ("acme.okta.com.evil.example", false),
            ("https://evil.example/acme.okta.com", false),
            ("https://evil.example/?u=https://acme.okta.com/", false),
            ("https://other.okta.com/", false),
            ("", false),
        ] {
            assert_eq!(okta.signs_in_at(&[target.to_owned()]), expected, "{target}");
        }
        assert!(!okta.signs_in_at(&[]));
    }
}
