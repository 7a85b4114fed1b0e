//! Actions that contain an account, how they end, and what shows that they took effect.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{AccountState, Capability};

/// An action that contains an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// End the account's sessions and refresh tokens (Okta: OAuth tokens too).
    RevokeSessions,
    /// Entra: `accountEnabled = false`. Okta: suspend. Both can be undone.
    DisableAccount,
    /// Entra: confirm the user compromised. Okta: set the user's risk to high.
    MarkCompromised,
}

impl Action {
    /// Every action, in the order in which they are carried out: the quickest containment first.
    pub const ALL: [Self; 3] = [Self::RevokeSessions, Self::DisableAccount, Self::MarkCompromised];
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        self.capability().as_str()
    }
    /// The capability the action needs.
    pub const fn capability(self) -> Capability {
        match self {
            Self::RevokeSessions => Capability::RevokeSessions,
            Self::DisableAccount => Capability::DisableAccount,
            Self::MarkCompromised => Capability::MarkCompromised,
        }
    }
    /// The action with this stable name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }
}

/// The state that shows whether an action took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containment {
    /// The account's state.
    pub state: AccountState,
    /// Sessions begun before this instant are dead, where the directory tells.
    pub sessions_valid_from: Option<OffsetDateTime>,
    /// True when the directory holds the account to be compromised, where it tells.
    pub compromised: Option<bool>,
    /// When what the action changes was last changed, by whomever and by the directory's clock, where it tells: Okta the
    /// user's state, Entra ID the risk of who is held to be compromised.
    pub changed_at: Option<OffsetDateTime>,
}

/// How an action ended at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// The provider confirmed it.
    Done {
        /// The provider's id of the request, for support.
        request_id: Option<String>,
    },
    /// The provider refused it for good: named reason (`admin_target`, `ad_mastered`, `wrong_state`,
    /// `licence_missing`, `permission_missing`, `account_gone`, `not_offered` by this provider, `not_undoable`) and a
    /// sentence.
    Refused {
        /// Stable reason.
        reason: &'static str,
        /// One sentence for a person.
        message: String,
        /// The provider's id of the request.
        request_id: Option<String>,
    },
}
