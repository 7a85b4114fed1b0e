//! One user object, the same shape for both providers; each wire renders what its real counterpart shows.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// One account with its whole truth, password included. This is what the control port lists and patches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Immutable object id: a GUID at Entra ID, `00u…` at Okta.
    pub id: String,
    /// Sign-in name: user principal name or Okta login.
    pub login: String,
    /// Primary e-mail address.
    #[serde(default)]
    pub email: Option<String>,
    /// Further addresses: `otherMails` at Entra ID, `secondEmail` at Okta (the first one).
    #[serde(default)]
    pub other_emails: Vec<String>,
    /// Alias addresses: `proxyAddresses` at Entra ID.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// First name.
    #[serde(default)]
    pub given_name: String,
    /// Last name.
    #[serde(default)]
    pub family_name: String,
    /// Name people see.
    #[serde(default)]
    pub display_name: String,
    /// Department, if any.
    #[serde(default)]
    pub department: Option<String>,
    /// Job title, if any.
    #[serde(default)]
    pub job_title: Option<String>,
    /// When the object was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// When anything a reader of the directory can see changed last.
    #[serde(with = "time::serde::rfc3339")]
    pub updated: OffsetDateTime,
    /// When `status` changed last.
    #[serde(with = "time::serde::rfc3339")]
    pub status_changed: OffsetDateTime,
    /// Life-cycle state.
    #[serde(default)]
    pub status: Status,
    /// The state a deleted account had, and has again when it is restored.
    #[serde(default)]
    pub deleted_from: Option<Status>,
    /// A guest from another directory: the password lives there.
    #[serde(default)]
    pub guest: bool,
    /// Who checks the password.
    #[serde(default)]
    pub authority: Authority,
    /// Mastered in an on-premises AD.
    #[serde(default)]
    pub hybrid: bool,
    /// Entra ID: names of what is switched off for its passwords (`DisableStrongPassword`), as Graph spells them.
    #[serde(default)]
    pub password_policies: Option<String>,
    /// The password in clear; `None` = no password is set.
    #[serde(default)]
    pub password: Option<String>,
    /// When the password was set last.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub password_changed: Option<OffsetDateTime>,
    /// The password is right but must be changed before use.
    #[serde(default)]
    pub password_expired: bool,
    /// What stands behind the password.
    #[serde(default)]
    pub second_factor: SecondFactor,
    /// Answer given after a right password instead of success: an AADSTS code at Entra ID (`"53003"`), an authn
    /// status at Okta (`"PASSWORD_WARN"`).
    #[serde(default)]
    pub gate: Option<String>,
    /// Last successful interactive sign-in.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub last_sign_in: Option<OffsetDateTime>,
    /// Administrator roles: display names at Entra ID, role types at Okta.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Sessions and refresh tokens issued before this instant are dead.
    #[serde(with = "time::serde::rfc3339")]
    pub sessions_valid_from: OffsetDateTime,
    /// Risk as marked by administrators or us.
    #[serde(default)]
    pub risk: Risk,
    /// Wrong tries and the lock they led to.
    #[serde(default)]
    pub lock: Lock,
}

/// Life-cycle state, the union of both providers' words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// May sign in.
    #[default]
    Active,
    /// Entra ID: `accountEnabled` is false.
    Disabled,
    /// Okta: SUSPENDED.
    Suspended,
    /// Okta: STAGED.
    Staged,
    /// Okta: PROVISIONED.
    Provisioned,
    /// Okta: RECOVERY.
    Recovery,
    /// Okta: DEPROVISIONED.
    Deprovisioned,
    /// Removed from the directory; no reader sees it any more.
    Deleted,
}

/// Who checks the password of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// The directory itself (cloud-only or password hash synchronisation).
    #[default]
    Cloud,
    /// Entra ID pass-through authentication: agents ask AD.
    PassThrough,
    /// Another identity provider; the directory never sees the password.
    Federated,
    /// Okta delegated authentication against AD.
    ActiveDirectory,
    /// Okta delegated authentication against LDAP.
    Ldap,
}

/// What stands behind the password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondFactor {
    /// The password alone signs in.
    #[default]
    None,
    /// A second factor is asked for.
    Required,
    /// A second factor must be registered first.
    Unregistered,
}

/// Risk of an account as Identity Protection and Okta ITP tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Risk {
    /// `none`, `low`, `medium`, `high`; empty = no record exists.
    pub level: String,
    /// `confirmedCompromised`, `dismissed`, …
    pub state: String,
    /// Why.
    pub detail: String,
    /// When it changed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub updated: Option<OffsetDateTime>,
    /// Until then a reader is told that the change is still processed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub processing_until: Option<OffsetDateTime>,
}

/// Wrong tries since the last success or unlock, and the lock they led to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lock {
    /// Wrong tries that counted.
    pub failures: u32,
    /// How many of them came over the wire.
    pub failures_wire: u32,
    /// How many of them the owner made (through the control port).
    pub failures_owner: u32,
    /// SHA-256 of the last three wrong passwords: repeating one does not count at Entra ID.
    pub recent: Vec<String>,
    /// Locks so far; each lasts longer at Entra ID.
    pub locks: u32,
    /// Locked until then; `locked` without it = until somebody unlocks.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
    /// Locked now, unless `until` has passed.
    pub locked: bool,
}

impl Lock {
    /// Whether a sign-in is refused at this instant because of the lock.
    pub fn holds(&self, now: OffsetDateTime) -> bool {
        self.locked && self.until.is_none_or(|until| now < until)
    }

    /// Forgets everything, as an administrator's unlock does.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Who submitted a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A client of the provider's own protocol: what is judged.
    Wire,
    /// The owner of the account, simulated through the control port.
    Owner,
}

impl Account {
    /// A fresh active account; everything else takes its default.
    pub fn new(id: String, login: String, now: OffsetDateTime) -> Self {
        Self {
            id,
            email: Some(login.clone()),
            login,
            other_emails: Vec::new(),
            aliases: Vec::new(),
            given_name: String::new(),
            family_name: String::new(),
            display_name: String::new(),
            department: None,
            job_title: None,
            created: now,
            updated: now,
            status_changed: now,
            status: Status::Active,
            deleted_from: None,
            guest: false,
            authority: Authority::Cloud,
            hybrid: false,
            password_policies: None,
            password: None,
            password_changed: None,
            password_expired: false,
            second_factor: SecondFactor::None,
            gate: None,
            last_sign_in: None,
            roles: Vec::new(),
            sessions_valid_from: now,
            risk: Risk::default(),
            lock: Lock::default(),
        }
    }

    /// Moves to another life-cycle state and remembers when.
    pub fn set_status(&mut self, status: Status, now: OffsetDateTime) {
        if self.status != status {
            self.deleted_from = (status == Status::Deleted).then_some(self.status);
            self.status = status;
            self.status_changed = now;
        }
    }

    /// Sets a password as of now; locks and expiry end with it.
    pub fn set_password(&mut self, password: String, now: OffsetDateTime) {
        self.password = Some(password);
        self.password_changed = Some(now);
        self.password_expired = false;
        self.lock.clear();
    }

    /// Counts one wrong try for whoever made it.
    pub fn count_failure(&mut self, by: By) {
        self.lock.failures += 1;
        match by {
            By::Wire => self.lock.failures_wire += 1,
            By::Owner => self.lock.failures_owner += 1,
        }
    }
}
