//! Typed ids. An id of one kind never converts into another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! typed_id {
    ($(#[doc = $doc:literal] $name:ident;)*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, ordered by time (UUIDv7).
            #[expect(clippy::new_without_default, reason = "a default id would be random, which surprises")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
            /// The bare UUID.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

typed_id! {
    /// A customer.
    OrganizationId;
    /// An isolated workspace of a customer.
    TenantId;
    /// One configured connection of a tenant to a directory.
    IntegrationId;
    /// Our row of one user object in a directory, as one integration sees it. Not the budget's key: see [`AccountKey`].
    AccountId;
    /// The profile of a person in a tenant.
    IdentityId;
    /// A string a leak can carry.
    IdentifierId;
    /// A stored batch of feed records.
    BatchId;
    /// One leaked-credential record.
    FeedRecordId;
    /// A feed record that matched an account of a tenant.
    ExposureId;
    /// A request to validate exposures.
    ValidationId;
    /// One password submission that may have reached a directory.
    AttemptId;
    /// An action on an account.
    MitigationId;
    /// A request to mitigate.
    MitigationRequestId;
    /// Mitigations that wait for a second person together.
    ApprovalId;
    /// One message on the broker; the key of deduplication.
    MessageId;
    /// One sync run.
    SyncRunId;
    /// Removals of accounts that wait for a person.
    RemovalPlanId;
    /// A stop of password attempts.
    AttemptStopId;
    /// A request to raise an integration's daily maximum.
    DailyMaxRequestId;
    /// A row of waiting work.
    WorkId;
    /// An audit event.
    EventId;
    /// What an audit event followed from: the first request or record of the chain.
    CauseId;
}

/// A kind of identity provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Microsoft Entra ID.
    EntraId,
    /// Okta.
    Okta,
}

impl ProviderKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::EntraId, Self::Okta];
    /// The name used in the database, in configuration and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EntraId => "entra_id",
            Self::Okta => "okta",
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a provider.
#[derive(Debug, thiserror::Error)]
#[error("unknown provider; known are entra_id and okta")]
pub struct UnknownProvider;

impl FromStr for ProviderKind {
    type Err = UnknownProvider;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|k| k.as_str() == text).ok_or(UnknownProvider)
    }
}

/// An account at the directory: what an attempt budget belongs to, whichever tenant or integration asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountKey {
    /// Kind of provider.
    pub provider: ProviderKind,
    /// The directory's immutable id, lower-case for Entra (a GUID), as given for Okta.
    pub directory: String,
    /// The account's immutable object id in the directory.
    pub object: String,
}
