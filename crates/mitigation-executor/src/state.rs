//! The life of a mitigation. A transition consumes the state and may refuse.

use shared::id::MessageId;
use time::OffsetDateTime;

use crate::plan::{Hold, Refusal};

/// Where a mitigation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// To be carried out; the reason says why it waits, if it does.
    Planned {
        /// Why it waits.
        waits: Option<String>,
    },
    /// Stopped until a second person releases it.
    Held {
        /// What stopped it.
        by: Hold,
    },
    /// The intent of a provider call is committed, its outcome is not.
    Acting {
        /// The message in whose handling the call was begun.
        message: MessageId,
        /// Until then the call may be under way elsewhere.
        until: OffsetDateTime,
    },
    /// A call was begun and nobody knows how it ended. The account is read before anything else is done.
    Unknown,
    /// The provider confirmed it.
    Done,
    /// The directory shows it.
    Verified,
    /// The directory showed it, and later did not any more.
    Reverted,
    /// A person had it taken back.
    Undone,
    /// It is not done, for good.
    Refused {
        /// Why.
        reason: Refusal,
    },
}

/// The state does not allow the step.
#[derive(Debug, thiserror::Error)]
#[error("a mitigation that is {from} cannot be {step}")]
pub struct InvalidTransition {
    from: &'static str,
    step: &'static str,
}

impl State {
    /// The stable name, as stored.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Planned { .. } => "planned",
            Self::Held { .. } => "held",
            Self::Acting { .. } => "acting",
            Self::Unknown => "unknown",
            Self::Done => "done",
            Self::Verified => "verified",
            Self::Reverted => "reverted",
            Self::Undone => "undone",
            Self::Refused { .. } => "refused",
        }
    }

    const fn refuse_step(&self, step: &'static str) -> InvalidTransition {
        InvalidTransition { from: self.name(), step }
    }

    /// A provider call is about to be made.
    pub fn begin(self, message: MessageId, until: OffsetDateTime) -> Result<Self, InvalidTransition> {
        match self {
            Self::Planned { .. } | Self::Unknown => Ok(Self::Acting { message, until }),
            from => Err(from.refuse_step("begun")),
        }
    }

    /// Nobody will learn any more how the call ended.
    pub fn lose(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Acting { .. } => Ok(Self::Unknown),
            from => Err(from.refuse_step("lost")),
        }
    }

    /// Nothing was changed; it is tried again later.
    pub fn wait(self, why: &str) -> Result<Self, InvalidTransition> {
        match self {
            Self::Planned { .. } | Self::Acting { .. } => Ok(Self::Planned { waits: Some(why.to_owned()) }),
            Self::Unknown => Ok(Self::Unknown),
            from => Err(from.refuse_step("postponed")),
        }
    }

    /// The provider confirmed it.
    pub fn confirm(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Acting { .. } => Ok(Self::Done),
            from => Err(from.refuse_step("done")),
        }
    }

    /// The directory shows it, whoever did it.
    pub fn see(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Planned { .. } | Self::Unknown | Self::Done | Self::Verified => Ok(Self::Verified),
            from => Err(from.refuse_step("verified")),
        }
    }

    /// The directory does not show it any more.
    pub fn revert(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Verified => Ok(Self::Reverted),
            from => Err(from.refuse_step("reverted")),
        }
    }

    /// It is stopped.
    pub fn hold(self, by: Hold) -> Result<Self, InvalidTransition> {
        match self {
            Self::Planned { .. } => Ok(Self::Held { by }),
            from => Err(from.refuse_step("held")),
        }
    }

    /// A second person lets it run.
    pub fn release(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Held { .. } => Ok(Self::Planned { waits: None }),
            from => Err(from.refuse_step("released")),
        }
    }

    /// It is not done, for good.
    pub fn refuse(self, reason: Refusal) -> Result<Self, InvalidTransition> {
        match self {
            Self::Planned { .. } | Self::Unknown | Self::Acting { .. } | Self::Held { .. } => {
                Ok(Self::Refused { reason })
            }
            from => Err(from.refuse_step("refused")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<State> {
        vec![
            State::Planned { waits: None },
            State::Held { by: Hold::Hourly },
            State::Acting { message: MessageId::new(), until: OffsetDateTime::UNIX_EPOCH },
            State::Unknown,
            State::Done,
            State::Verified,
            State::Reverted,
            State::Undone,
            State::Refused { reason: Refusal::SwitchedOff },
        ]
    }

    #[test]
    fn only_what_is_planned_or_unknown_can_reach_the_provider() {
        for state in all() {
            let name = state.name();
            let begun = state.begin(MessageId::new(), OffsetDateTime::UNIX_EPOCH).is_ok();
            assert_eq!(begun, matches!(name, "planned" | "unknown"), "{name}");
        }
    }

    #[test]
    fn an_end_is_an_end() {
        for end in [State::Reverted, State::Undone, State::Refused { reason: Refusal::AccountGone }] {
            assert!(end.clone().begin(MessageId::new(), OffsetDateTime::UNIX_EPOCH).is_err());
            assert!(end.clone().release().is_err());
            assert!(end.clone().see().is_err());
            assert!(end.clone().wait("x").is_err());
            assert!(end.refuse(Refusal::SwitchedOff).is_err());
        }
    }

    #[test]
    fn what_may_have_happened_is_never_called_planned_again() {
        assert_eq!(State::Unknown.wait("outage").unwrap(), State::Unknown);
    }
}
