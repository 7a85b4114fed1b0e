//! How a unit of a run ends, and why it could not be done.

use shared::{
    db::StoreError,
    provider::{Missing, ProviderError, directory::ConnectError},
    sealing::SealError,
};

use crate::store_runs::Run;

/// How a unit ended.
pub(crate) enum Step {
    /// Committed; this is where the run stands now.
    On(Run),
    /// The run has ended.
    Ended,
    /// Another worker has moved the run on.
    Overtaken,
    /// Committed so far, but the next page could not be fetched.
    Failed(Run, ProviderError),
}

/// Why a unit could not be done.
#[derive(Debug)]
pub(crate) enum StepError {
    Store(StoreError),
    Provider(ProviderError),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ProviderError> for StepError {
    fn from(error: ProviderError) -> Self {
        Self::Provider(error)
    }
}

/// What an integration is told that there is no provider for now.
pub(crate) fn unusable(error: ConnectError) -> ProviderError {
    let (reason, message) = match error {
        ConnectError::Provider(error) => return error,
        ConnectError::NoCredentials => {
            ("credentials_missing", "the integration has no credentials; save them".to_owned())
        }
        // Nothing is wrong with the secret: the key is away for now, and the integration must not be blamed.
        ConnectError::Sealed(error @ (SealError::Away { .. } | SealError::NotLoaded { .. })) => {
            tracing::warn!(%error, "no secret can be opened now");
            return ProviderError::NotSent("the key that opens the integration's secret is not at hand");
        }
        ConnectError::NoKey | ConnectError::Sealed(_) | ConnectError::Store(_) => {
            ("secret_unreadable", format!("{error}; save the integration's secret again"))
        }
    };
    ProviderError::Refused(Missing { reason, message, not_granted: false })
}
