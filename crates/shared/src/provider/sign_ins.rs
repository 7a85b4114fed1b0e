//! What a directory's own log of sign-ins tells: of one account's owner, and of our own submissions.

use std::time::Duration;

use time::OffsetDateTime;

use super::ProviderError;

/// Pages of the log that one list of [`OwnSignIn`]s follows. Behind the last of them the list is an error: what is left out
/// must not look like what was not there.
pub(super) const MOST_PAGES: usize = 40;
/// What [`MOST_PAGES`] do not hold.
pub(super) const TOO_MANY: ProviderError =
    ProviderError::Protocol("more sign-ins of ours in that time than are read at once");
/// The longest wait for the next page: logs are rationed by the call (entra.md §7.4), and nobody waits for this list.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Waits for one page.
const WAITS: usize = 10;

/// A submission of ours, on whatever account, as a directory's log has it. A list of them is in no order, and perhaps not all
/// of them are there yet: logs lag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnSignIn {
    /// The log's own id of the entry.
    pub entry: String,
    /// The account.
    pub object_id: String,
    /// When it was, by the directory's clock.
    pub at: OffsetDateTime,
}

/// Calls again once our share of the quota allows it.
pub(super) async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, ProviderError>
where
    F: Future<Output = Result<T, ProviderError>> + Send,
{
    for _ in 0..WAITS {
        match call().await {
            Err(ProviderError::Paced { wait }) if wait <= LONGEST_WAIT => tokio::time::sleep(wait).await,
            other => return other,
        }
    }
    call().await
}

/// What the log tells of an account. Our own attempts are in it too, and count as nobody's: the budget knows them better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignIns {
    /// The owner's last success, as far as the log can tell one with the password.
    pub last_success: Option<OffsetDateTime>,
    /// Wrong passwords since then, or in all that was read. [`LOCKED`](Self::LOCKED) when the account was locked since.
    pub failures: u32,
}

/// What one entry of a log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// The owner signed in.
    Success,
    /// A wrong password that was not ours.
    Failure,
    /// Somebody, we or others, met a locked account.
    Lock,
}

impl SignIns {
    /// More failures than any threshold has: where an account was locked and nobody has signed in since, the next one may
    /// lock it again (entra.md §6).
    pub const LOCKED: u32 = u32::MAX;

    /// Sums up entries in any order. What bears the date of the success may have come after it.
    pub fn of(entries: &[(OffsetDateTime, SignIn)]) -> Self {
        let at = |wanted| entries.iter().filter(move |(_, entry)| *entry == wanted).map(|(at, _)| *at);
        let last_success = at(SignIn::Success).max();
        let since = |at: &OffsetDateTime| last_success.is_none_or(|success| *at >= success);
        let failures = if at(SignIn::Lock).any(|at| since(&at)) {
            Self::LOCKED
        } else {
            u32::try_from(at(SignIn::Failure).filter(since).count()).unwrap_or(Self::LOCKED)
        };
        Self { last_success, failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    #[test]
    fn failures_count_from_the_last_success_whatever_the_order() {
        use SignIn::{Failure, Success};
        let entries =
            [(at(9), Failure), (at(1), Failure), (at(5), Success), (at(5), Failure), (at(3), Success)];
        assert_eq!(SignIns::of(&entries), SignIns { last_success: Some(at(5)), failures: 2 });
        assert_eq!(SignIns::of(&entries[..2]), SignIns { last_success: None, failures: 2 });
        assert_eq!(SignIns::of(&[]), SignIns::default());
    }

    #[test]
    fn a_lock_that_nobody_signed_in_after_is_worse_than_any_number_of_failures() {
        let locked = [(at(2), SignIn::Failure), (at(3), SignIn::Lock)];
        assert_eq!(SignIns::of(&locked).failures, SignIns::LOCKED);
        let over = [locked[0], locked[1], (at(4), SignIn::Success)];
        assert_eq!(SignIns::of(&over).failures, 0);
    }
}
