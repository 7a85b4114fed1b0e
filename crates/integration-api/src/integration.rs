//! What an integration is, and what becomes of it: pure decisions, without database or network.

use std::{collections::BTreeSet, fmt, str::FromStr};

use shared::{
    id::{IntegrationId, ProviderKind},
    integration::{Connection, Settings},
    provider::Capability,
};
use time::OffsetDateTime;

/// Derived status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Works.
    Active,
    /// Does nothing.
    Disabled,
    /// Reading does not work.
    Error,
}

impl Status {
    /// The stored name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Error => "error",
        }
    }
}

/// A stored name this build does not know.
#[derive(Debug)]
pub struct Unknown;

impl FromStr for Status {
    type Err = Unknown;
    fn from_str(text: &str) -> Result<Self, Unknown> {
        [Self::Active, Self::Disabled, Self::Error].into_iter().find(|s| s.as_str() == text).ok_or(Unknown)
    }
}

/// How one capability fares, once it was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapabilityState {
    /// Works.
    Working,
    /// Failed.
    Failed,
    /// The provider refuses it for want of a grant.
    NotGranted,
}

impl CapabilityState {
    /// The stored name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Failed => "failed",
            Self::NotGranted => "not_granted",
        }
    }
}

impl FromStr for CapabilityState {
    type Err = Unknown;
    fn from_str(text: &str) -> Result<Self, Unknown> {
        [Self::Working, Self::Failed, Self::NotGranted]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or(Unknown)
    }
}

/// The newest knowledge about one capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Which.
    pub capability: Capability,
    /// How it fares.
    pub state: CapabilityState,
    /// Stable reason when it does not work.
    pub reason: String,
    /// One sentence for a person.
    pub message: String,
    /// Since when it fares so.
    pub since: OffsetDateTime,
    /// When it was last seen.
    pub observed_at: OffsetDateTime,
}

/// One configured connection of a tenant to a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integration {
    /// Id.
    pub id: IntegrationId,
    /// Name.
    pub name: String,
    /// Kind of provider.
    pub provider: ProviderKind,
    /// How to reach the directory.
    pub connection: Connection,
    /// What it may do.
    pub settings: Settings,
    /// Derived status.
    pub status: Status,
    /// Stable reason of the status.
    pub status_reason: String,
    /// One sentence about the status.
    pub status_message: String,
    /// Since when.
    pub status_since: OffsetDateTime,
    /// The person who disabled it.
    pub disabled_by: Option<String>,
    /// Why.
    pub disabled_reason: Option<String>,
    /// Last test.
    pub tested_at: Option<OffsetDateTime>,
    /// Outcome of the last test since the connection last changed.
    pub test_passed: Option<bool>,
    /// When a test passed since the connection last changed.
    pub proven_at: Option<OffsetDateTime>,
    /// When connection or credentials last changed.
    pub connection_since: OffsetDateTime,
    /// The directory's immutable id.
    pub directory_id: Option<String>,
    /// The directory's name.
    pub directory_name: Option<String>,
    /// Grows with every change by a person.
    pub version: i64,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// Last change by a person.
    pub updated_at: OffsetDateTime,
    /// Who made it.
    pub updated_by: String,
    /// Version of the sealed credentials, if there are any.
    pub secret_version: Option<i32>,
    /// Knowledge about capabilities.
    pub health: Vec<Health>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Integration {
    /// The knowledge about one capability.
    pub fn health_of(&self, capability: Capability) -> Option<&Health> {
        self.health.iter().find(|h| h.capability == capability)
    }

    /// The capabilities a test has to try: reading and every switched-on one.
    pub fn required(&self) -> BTreeSet<Capability> {
        self.settings.capabilities()
    }

    /// Derives status, reason and message: disabled by a person, else untested, else error, else active (design §2).
    ///
    /// INVARIANT: a test or a worker's report never activates what a person disabled.
    pub fn derive_status(&mut self) {
        let read = self.health_of(Capability::Read).filter(|h| h.state != CapabilityState::Working);
        let (status, reason, message) = match (&self.disabled_by, self.proven_at, read) {
            (Some(_), ..) => {
                let message = self.disabled_reason.clone().unwrap_or_default();
                (Status::Disabled, "disabled_by_person".to_owned(), message)
            }
            (None, None, _) if self.test_passed == Some(false) => (
                Status::Disabled,
                "test_failed".to_owned(),
                "the last test did not pass; see the capabilities, then test again".to_owned(),
            ),
            (None, None, _) => {
                (Status::Disabled, "untested".to_owned(), "becomes active when a test passes".to_owned())
            }
            (None, Some(_), Some(read)) => (Status::Error, read.reason.clone(), read.message.clone()),
            (None, Some(_), None) => (Status::Active, String::new(), String::new()),
        };
        self.status = status;
        self.status_reason = reason;
        self.status_message = message;
    }

    /// Forgets what a test proved, because the connection or its credentials changed (design §11).
    pub fn undo_test(&mut self, now: OffsetDateTime) {
        self.proven_at = None;
        self.test_passed = None;
        self.health.clear();
        self.connection_since = now;
    }

    /// Takes in what a worker saw; older knowledge, or knowledge of an earlier connection, changes nothing.
    pub fn observe(&mut self, seen: Health) {
        if seen.observed_at < self.connection_since {
            return;
        }
        match self.health.iter_mut().find(|h| h.capability == seen.capability) {
            Some(known) if known.observed_at > seen.observed_at => {}
            Some(known) => {
                let since = if known.state == seen.state && known.reason == seen.reason {
                    known.since
                } else {
                    seen.since
                };
                *known = Health { since, ..seen };
            }
            None => self.health.push(seen),
        }
    }

    /// Takes in the results of a test; whether everything required passed.
    pub fn tested(&mut self, results: Vec<Health>, now: OffsetDateTime) -> bool {
        let required = self.required();
        for result in results {
            self.observe(result);
        }
        let passed = required.iter().all(|c| {
            self.health_of(*c).is_some_and(|h| h.state == CapabilityState::Working && h.observed_at >= now)
        });
        self.tested_at = Some(now);
        self.test_passed = Some(passed);
        if passed {
            self.proven_at.get_or_insert(now);
        }
        self.derive_status();
        passed
    }
}

#[cfg(test)]
mod tests {
    use shared::integration::{EntraCloud, EntraConnection};

    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    fn health(capability: Capability, working: bool, second: i64) -> Health {
        Health {
            capability,
            state: if working { CapabilityState::Working } else { CapabilityState::Failed },
            reason: if working { String::new() } else { "secret_expired".into() },
            message: String::new(),
            since: at(second),
            observed_at: at(second),
        }
    }

    fn integration() -> Integration {
        let connection = Connection::EntraId(EntraConnection {
            cloud: EntraCloud::Global,
            tenant: "contoso.example".into(),
            client_id: "id".into(),
            ropc_client_id: None,
        });
        let mut made = Integration {
            id: IntegrationId::new(),
            name: "corp".into(),
            provider: ProviderKind::EntraId,
            connection,
            settings: Settings::default(),
            status: Status::Disabled,
            status_reason: String::new(),
            status_message: String::new(),
            status_since: at(0),
            disabled_by: None,
            disabled_reason: None,
            tested_at: None,
            test_passed: None,
            proven_at: None,
            connection_since: at(0),
            directory_id: None,
            directory_name: None,
            version: 1,
            created_at: at(0),
            updated_at: at(0),
            updated_by: "ann".into(),
            secret_version: Some(1),
            health: Vec::new(),
        };
        made.derive_status();
        made
    }

    #[test]
    fn a_test_that_passes_everything_required_activates() {
        let mut i = integration();
        assert_eq!((i.status, i.status_reason.as_str()), (Status::Disabled, "untested"));
        assert!(!i.tested(vec![health(Capability::Read, true, 10)], at(10)));
        assert_eq!((i.status, i.status_reason.as_str()), (Status::Disabled, "test_failed"));
        let all = vec![health(Capability::Read, true, 20), health(Capability::Validate, true, 20)];
        assert!(i.tested(all, at(20)));
        assert_eq!(i.status, Status::Active);
    }

    #[test]
    fn a_test_never_enables_what_a_person_disabled() {
        let mut i = integration();
        i.disabled_by = Some("ann".into());
        i.tested(vec![health(Capability::Read, true, 10), health(Capability::Validate, true, 10)], at(10));
        assert_eq!((i.status, i.status_reason.as_str()), (Status::Disabled, "disabled_by_person"));
        i.disabled_by = None;
        i.derive_status();
        assert_eq!(i.status, Status::Active);
    }

    #[test]
    fn losing_reading_is_an_error_that_recovers_and_losing_another_capability_is_a_warning() {
        let mut i = integration();
        i.tested(vec![health(Capability::Read, true, 10), health(Capability::Validate, true, 10)], at(10));
        i.observe(health(Capability::Validate, false, 20));
        i.derive_status();
        assert_eq!(i.status, Status::Active);
        i.observe(health(Capability::Read, false, 30));
        i.derive_status();
        assert_eq!((i.status, i.status_reason.as_str()), (Status::Error, "secret_expired"));
        i.observe(health(Capability::Read, true, 40));
        i.derive_status();
        assert_eq!(i.status, Status::Active);
    }

    #[test]
    fn reports_that_come_late_or_concern_an_earlier_connection_change_nothing() {
        let mut i = integration();
        i.tested(vec![health(Capability::Read, true, 30), health(Capability::Validate, true, 30)], at(30));
        i.observe(health(Capability::Read, false, 20));
        i.derive_status();
        assert_eq!(i.status, Status::Active);
        i.undo_test(at(50));
        i.derive_status();
        assert_eq!((i.status, i.status_reason.as_str()), (Status::Disabled, "untested"));
        i.observe(health(Capability::Read, true, 40));
        assert!(i.health.is_empty());
    }
}
