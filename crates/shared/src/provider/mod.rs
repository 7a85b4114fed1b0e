//! Identity providers: one small trait for what every directory can do, one for submitting a password.
//!
//! Belongs here: what travels to and from a provider, and its adapters. Does not: SQL, messages, gRPC.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    id::{AccountKey, ProviderKind},
    limiter::AttemptPermit,
    secret::SecretBytes,
    verdict::Verdict,
};

pub mod attempt;
mod changes;
mod containment;
pub mod directory;
pub mod entra;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod http;
mod membership;
pub mod okta;
pub mod pace;
mod page;
pub mod resolver;
mod sign_ins;

pub use attempt::AttemptConnection;
pub use changes::{Asked, Change, Others};
pub use containment::{Acted, Action, Containment};
pub use membership::{GroupsAndRoles, Members, Membership, Read as MembersRead, group_kind, is_role_known};
pub use page::{Cursor, Listing, Next, Page, Within};
pub use sign_ins::{OwnSignIn, SignIn, SignIns};

/// What an integration can do, each with its own permissions and its own outcome in a connection test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Read accounts. Without it the integration is in error.
    Read,
    /// Submit a password.
    Validate,
    /// Revoke sessions.
    RevokeSessions,
    /// Disable or suspend an account.
    DisableAccount,
    /// Mark an account as compromised.
    MarkCompromised,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Self; 5] =
        [Self::Read, Self::Validate, Self::RevokeSessions, Self::DisableAccount, Self::MarkCompromised];
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Validate => "validate",
            Self::RevokeSessions => "revoke_sessions",
            Self::DisableAccount => "disable_account",
            Self::MarkCompromised => "mark_compromised",
        }
    }
    /// The capability with this stable name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == text)
    }
}

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[doc = $doc])* $variant,)* }
        impl $name {
            /// The stable name, as stored.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// The value with this stable name.
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
        }
    };
}

named! {
    /// An account's state in one vocabulary for all providers.
    AccountState {
        /// Can sign in.
        Active = "active",
        /// Disabled (Entra) or suspended (Okta).
        Disabled = "disabled",
        /// Locked out, as the directory says.
        Locked = "locked",
        /// Active, but the password is expired and must be changed.
        PasswordExpired = "password_expired",
        /// Not yet able to sign in: staged, provisioned, or in recovery.
        Pending = "pending",
        /// Deprovisioned or soft-deleted.
        Deprovisioned = "deprovisioned",
    }
}
named! {
    /// Who checks the account's password.
    PasswordAuthority {
        /// The directory itself.
        Cloud = "cloud",
        /// Active Directory or LDAP behind the directory (pass-through, delegated): its counter counts too.
        Ad = "ad",
        /// A federated or social identity provider.
        Federated = "federated",
        /// Nobody: the account has no password.
        None = "none",
    }
}
named! {
    /// Whether the account is at home in the directory.
    AccountKind {
        /// A member of the directory.
        Member = "member",
        /// A guest from elsewhere.
        Guest = "guest",
    }
}

/// One user object as the directory shows it. Absent means unknown, never false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Immutable object id.
    pub object_id: String,
    /// Current sign-in name: Entra `userPrincipalName`, Okta `profile.login`.
    pub login: String,
    /// Display name, may be empty.
    pub display_name: String,
    /// Every further address a leak can carry: mail, proxy addresses, other mails. Not normalised.
    pub addresses: Vec<String>,
    /// State.
    pub state: AccountState,
    /// Member or guest.
    pub kind: AccountKind,
    /// Who checks the password.
    pub authority: PasswordAuthority,
    /// Mastered in an on-premises Active Directory.
    pub hybrid: bool,
    /// Whether a password that is set now must satisfy the directory's [`PasswordRules`]. `None`: it does not tell.
    pub under_policy: Option<bool>,
    /// Known to hold an administrative role.
    pub is_admin: bool,
    /// When the password last changed.
    pub password_changed_at: Option<OffsetDateTime>,
    /// The owner's last successful sign-in, where the permissions allow reading it.
    pub last_sign_in_at: Option<OffsetDateTime>,
    /// When the account was created in the directory.
    pub created_at: Option<OffsetDateTime>,
    /// True when the directory reported the account as removed, or as outside the scope (a tombstone).
    pub removed: bool,
}

impl Account {
    /// A tombstone: the directory does not show this account (any more), or not in the scope.
    pub fn tombstone(object_id: String) -> Self {
        Self {
            object_id,
            login: String::new(),
            display_name: String::new(),
            addresses: Vec::new(),
            state: AccountState::Deprovisioned,
            kind: AccountKind::Member,
            authority: PasswordAuthority::None,
            hybrid: false,
            under_policy: None,
            is_admin: false,
            password_changed_at: None,
            last_sign_in_at: None,
            created_at: None,
            removed: true,
        }
    }
}

/// The outcome of testing one capability.
#[derive(Clone, Debug)]
pub struct CapabilityTest {
    /// What was tested.
    pub capability: Capability,
    /// Passed, or what is missing.
    pub result: Result<(), Missing>,
}

/// Why a capability does not work, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Stable reason, for example `secret_expired`, `consent_missing`, `licence_missing`, `role_missing`.
    pub reason: &'static str,
    /// One sentence: what is missing and where to grant it. Never contains a secret or a body.
    pub message: String,
    /// True when the provider refused for want of a grant, false when the test failed for another reason.
    pub not_granted: bool,
}

/// What a connection test found.
#[derive(Clone, Debug, Default)]
pub struct TestReport {
    /// One entry per capability tested.
    pub capabilities: Vec<CapabilityTest>,
    /// The directory's immutable id, when it could be read: Entra tenant GUID (lower case), Okta org id.
    pub directory_id: Option<String>,
    /// The directory's own name.
    pub directory_name: Option<String>,
    /// Which of the provider's products answers, where it has several: Okta's Classic or Identity Engine.
    pub edition: Option<&'static str>,
    /// What works, but less well than it could: an optional permission is not granted, a secret expires soon.
    pub warnings: Vec<Warning>,
}

/// Days before the end of a credential at which a person is warned.
pub const EXPIRY_WARNINGS: [i64; 3] = [60, 30, 7];

/// Something a person should know although the connection works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Stable reason, for example `admins_unknown` or `secret_expires`.
    pub reason: &'static str,
    /// One sentence: what it costs and what to grant where.
    pub message: String,
}

/// What the directory says about locking accounts, as far as it may be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockoutPolicy {
    /// Failed sign-ins that lock an account: the strictest policy that can apply. `None`: unknown.
    pub threshold: Option<u32>,
}

/// What every password of an [account under them](Account::under_policy) satisfied when it was set, whichever of the
/// directory's policies applied: the least that any of them asks for. Says nothing about passwords that came with an
/// imported account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordRules {
    /// Characters at least.
    pub min_length: u32,
    /// Lower-case letters at least.
    pub min_lower: u32,
    /// Upper-case letters at least.
    pub min_upper: u32,
    /// Digits at least.
    pub min_digits: u32,
    /// Kinds of characters at least, of lower case, upper case, digits and symbols.
    pub min_classes: u32,
    /// Names this state of the policies: another one as soon as any of them changes, comes or goes.
    pub state: String,
}

/// One directory behind one integration's credentials.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its kind.
    fn kind(&self) -> ProviderKind;
    /// What this kind can do at all; what an integration may do is a matter of its permissions.
    fn capabilities(&self) -> &'static [Capability];
    /// Tries each wanted capability and reports each. Changes nothing and never uses a real person's name.
    async fn test(&self, wanted: &BTreeSet<Capability>) -> TestReport;
    /// The directory's immutable id.
    async fn directory_id(&self) -> Result<String, ProviderError>;
    /// One page of accounts. `from` is a cursor of the same listing, or `None` for the start of a full one.
    async fn accounts(&self, listing: Listing, from: Option<&Cursor>) -> Result<Page, ProviderError>;
    /// How many accounts a full listing is going to show, where the provider tells that cheaply.
    async fn count(&self) -> Result<Option<i64>, ProviderError> {
        Ok(None)
    }
    /// One account, read now. `None`: it does not exist (any more).
    async fn account(&self, object_id: &str) -> Result<Option<Account>, ProviderError>;
    /// Which of these groups and roles an account has, read now and each as it was asked for. Asking for nothing costs
    /// no call.
    ///
    /// A group that is gone has no members, and a role that the directory does not know has no holders. A role that a
    /// person is only eligible for counts once it is activated.
    ///
    /// INVARIANT: what cannot be seen is an error ([`ProviderError::Refused`] names the permission and where to grant
    /// it), never an absence. Okta does not tell a group that is gone from one it does not show: there both are errors.
    async fn memberships(
        &self,
        object_id: &str,
        of: GroupsAndRoles<'_>,
    ) -> Result<Vec<Membership>, ProviderError>;
    /// Everybody who has these groups and roles, as [`memberships`](Self::memberships) counts them: what is foreseen. Of
    /// each what could be read, at most `most` members; one with more is an error of its own.
    async fn members(&self, of: GroupsAndRoles<'_>, most: usize) -> MembersRead;
    /// The lockout policy, as far as it may be read.
    async fn lockout_policy(&self) -> Result<LockoutPolicy, ProviderError>;
    /// Failed sign-ins that lock this account, where the directory's policies can be told apart by account. `None`: no
    /// better is known than [`lockout_policy`](Self::lockout_policy).
    async fn lockout_threshold(&self, _account: &Account) -> Result<Option<u32>, ProviderError> {
        Ok(None)
    }
    /// What the log of sign-ins tells of an account since an instant: one page, read once. `None`: we may not read it.
    async fn sign_ins(
        &self,
        _object_id: &str,
        _since: OffsetDateTime,
    ) -> Result<Option<SignIns>, ProviderError> {
        Ok(None)
    }
    /// [`OwnSignIn`]s from one instant to another, both included to the second. `None`: we may not read the log.
    async fn own_sign_ins(
        &self,
        _from: OffsetDateTime,
        _until: OffsetDateTime,
    ) -> Result<Option<Vec<OwnSignIn>>, ProviderError> {
        Ok(None)
    }
    /// What passwords have to satisfy, as far as it may be read.
    async fn password_rules(&self) -> Result<Option<PasswordRules>, ProviderError> {
        Ok(None)
    }
    /// When the credential we come with ends. `None`: it does not, or that cannot be known.
    async fn credential_expiry(&self) -> Result<Option<OffsetDateTime>, ProviderError> {
        Ok(None)
    }
    /// What shows whether actions took effect on an account.
    /// What the given action does not change may be left unread: risk, for one, is rationed to a call a second.
    async fn containment(&self, object_id: &str, of: Action) -> Result<Option<Containment>, ProviderError>;
    /// The last thing that somebody else did to what an action changes of an account, since an instant, as the directory's
    /// own log of changes tells it.
    ///
    /// Logs are rationed by the call and late by minutes. So one reading answers for all accounts for a while, and as
    /// [`ProviderError::Paced`] says when to ask again while it is under way.
    async fn changed_by_others(
        &self,
        _object_id: &str,
        _of: Action,
        _asked: Asked,
    ) -> Result<Others, ProviderError> {
        Ok(None)
    }
    /// Carries out one action on one account, exactly one request. Repeating it is harmless.
    async fn act(&self, action: Action, object_id: &str) -> Result<Acted, ProviderError>;
    /// Takes an action back, where it can be.
    async fn undo(&self, action: Action, object_id: &str) -> Result<Acted, ProviderError>;
    /// The means to submit a password, for providers that have one.
    fn verifier(&self) -> Option<&dyn Verifier> {
        None
    }
}

/// Submits one password, once.
#[async_trait]
pub trait Verifier: Send + Sync {
    /// Resolves, connects and finishes TLS with the sign-in host, so that a network fault costs no attempt.
    async fn connect(&self) -> Result<AttemptConnection, ProviderError>;
    /// Submits the password with exactly one request on the given connection.
    ///
    /// INVARIANT: takes the permit by value; only the limiter makes permits; there is no second request.
    /// `before` is the account as read just before the attempt: its current sign-in name is used.
    async fn verify(
        &self,
        permit: AttemptPermit,
        connection: AttemptConnection,
        before: &Account,
        password: &SecretBytes,
    ) -> Attempted;
}

/// What became of an attempt. There is no error: once a permit is spent, everything is an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// The verdict the answer proves.
    pub verdict: Verdict,
    /// HTTP status, when an answer arrived.
    pub status: Option<u16>,
    /// The provider's code, for example `AADSTS50126` or `E0000004`; a constant of the adapter or digits, never
    /// free text of the answer.
    pub code: Option<String>,
    /// The provider's id of the request, for support.
    pub request_id: Option<String>,
    /// What else the answer tells beyond this account.
    pub signal: Signal,
}

/// What an answer says beyond its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Nothing.
    None,
    /// The account is said to be locked. Many of these from different accounts mean our address is blocked.
    Locked,
    /// The directory asks to slow down for the given time.
    Throttled(Duration),
    /// Our configuration is refused: stop for this integration and report `error`.
    Configuration,
    /// The code is unknown to this version; it is counted.
    UnknownCode,
}

/// A call that did not get a usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No connection, no TLS, or a timeout before anything was sent.
    #[error("the provider cannot be reached: {0}")]
    NotSent(&'static str),
    /// The connection died, timed out or broke off after the request may have been read.
    #[error("the provider's answer was lost: {0}")]
    Lost(&'static str),
    /// The provider asks to slow down.
    #[error("the provider asks to slow down")]
    Throttled {
        /// For how long, if it says so, clamped to 1 s ..= 1 h.
        retry_after: Option<Duration>,
    },
    /// Nothing was sent: our share of the provider's quota is used up, or it asked to be left alone.
    #[error("our share of the provider's quota is used up")]
    Paced {
        /// For how long, at most a few minutes.
        wait: Duration,
    },
    /// The provider is temporarily unable to answer (5xx).
    #[error("the provider answered {status}")]
    Unavailable {
        /// HTTP status.
        status: u16,
    },
    /// Our credentials or permissions do not suffice.
    #[error("the provider refuses our credentials: {}", .0.message)]
    Refused(Missing),
    /// The listing's cursor is no longer accepted; start a full listing.
    #[error("the cursor has expired")]
    CursorExpired,
    /// The answer is not what the provider's protocol says.
    #[error("the provider's answer is malformed: {0}")]
    Protocol(&'static str),
}

/// Whether an error may pass by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Try again after at least this time.
    After(Duration),
    /// Start the listing again from its beginning.
    Restart,
    /// A person has to change something first.
    Never,
}

impl ProviderError {
    /// May the call be tried again? Hints from outside are clamped to `floor ..= 20 × floor`.
    pub fn retry(&self, floor: Duration) -> Retry {
        match self {
            Self::NotSent(_) | Self::Lost(_) | Self::Unavailable { .. } | Self::Protocol(_) => {
                Retry::After(floor)
            }
            Self::Throttled { retry_after } => {
                Retry::After(retry_after.unwrap_or(floor).clamp(floor, floor.saturating_mul(20)))
            }
            Self::Paced { wait } => Retry::After(*wait),
            Self::CursorExpired => Retry::Restart,
            Self::Refused(_) => Retry::Never,
        }
    }
}

/// The budget key of an account of this directory.
pub fn account_key(provider: ProviderKind, directory: &str, object_id: &str) -> AccountKey {
    let fold = |s: &str| match provider {
        ProviderKind::EntraId => s.to_ascii_lowercase(), // GUIDs; Graph is not consistent about their case
        ProviderKind::Okta => s.to_owned(),              // Okta ids are case-sensitive
    };
    AccountKey { provider, directory: fold(directory), object: fold(object_id) }
}
