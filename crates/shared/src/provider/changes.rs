//! Who else changed an account, as a directory's own log of changes tells it.
//!
//! A request may take ten thousand mitigations back, and logs are rationed by the call: the log is read once for all
//! accounts, page by page by whoever asks, and what it told is kept for a while.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::sync::Mutex;

use super::{Action, ProviderError};

/// Something that somebody else did to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, by the directory's clock.
    pub at: OffsetDateTime,
    /// Who, as the log names them; may be empty.
    pub by: String,
}

/// What a log of changes tells of an account: `None`, it may not be read or does not tell; `Some(None)`, nobody else did
/// anything.
pub type Others = Option<Option<Change>>;

/// What a log is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Changes since then,
    pub since: OffsetDateTime,
    /// by a reading that was begun no earlier than this.
    pub at: OffsetDateTime,
}

/// How long what was read answers.
const LIFE: Duration = Duration::from_mins(1);
/// A reading begins at least so much earlier than asked for: others are going to ask about older mitigations.
const EARLIER: time::Duration = time::Duration::HOUR;
/// Entries may come into a log so late; what was read is read again that far back.
const LATE: time::Duration = time::Duration::minutes(15);
/// How long to wait for somebody else who reads, and after how long to come back if that is not enough.
const PATIENCE: Duration = Duration::from_secs(2);
const COME_BACK: Duration = Duration::from_secs(5);
/// Most pages of one reading; a longer log counts as one that may not be read.
const MOST_PAGES: usize = 400;

/// Where a page begins.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// At the first entry since an instant.
    Since(OffsetDateTime),
    /// Where a link leads that the page before ended with.
    Link(String),
}

/// A page of a log: what others did, to which accounts, and where it goes on.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub changes: Vec<(Action, String, Change)>,
    pub next: Option<String>,
}

/// What is known of a log. Of each account the last change is kept, so that it grows with the accounts only.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Option<Reading>>);

#[derive(Debug)]
struct Reading {
    since: OffsetDateTime,
    last: HashMap<(Action, String), Change>,
    /// `None`: it was read to its end, then.
    place: Option<Place>,
    begun: (Instant, OffsetDateTime),
    pages: usize,
    /// It may not be read, or is too long.
    unread: bool,
}

impl Reading {
    fn of(since: OffsetDateTime) -> Self {
        let begun = (Instant::now(), OffsetDateTime::now_utc());
        Self { since, last: HashMap::new(), place: Some(Place::Since(since)), begun, pages: 0, unread: false }
    }

    /// Reads on from where it ended, and some of it again.
    fn again(&mut self) {
        let from = (self.begun.1 - LATE).max(self.since);
        let last = std::mem::take(&mut self.last);
        *self = Self { last, place: Some(Place::Since(from)), ..Self::of(self.since) };
    }

    fn note(&mut self, page: Page) {
        for (action, account, change) in page.changes {
            let known = self.last.entry((action, account)).or_insert_with(|| change.clone());
            if change.at > known.at {
                *known = change;
            }
        }
        self.place = page.next.map(Place::Link);
    }
}

impl Log {
    /// What others did last to an account, by a reading that was begun after somebody asked. `kept`: how far back the log
    /// goes. `read` reads one page; `None`: the log may not be read.
    pub async fn tells<F>(
        &self,
        (action, account): (Action, &str),
        Asked { since, at }: Asked,
        kept: time::Duration,
        read: impl Fn(Place) -> F,
    ) -> Result<Others, ProviderError>
    where
        F: Future<Output = Result<Option<Page>, ProviderError>> + Send,
    {
        let now = OffsetDateTime::now_utc();
        let oldest = now - kept;
        if since < oldest {
            return Ok(None);
        }
        let Ok(mut known) = tokio::time::timeout(PATIENCE, self.0.lock()).await else {
            return Err(ProviderError::Paced { wait: COME_BACK });
        };
        let reading = match &mut *known {
            Some(reading) if reading.since <= since => reading,
            other => {
                // Twice as far back, so that mitigations that are taken back newest first do not begin it each anew.
                let earlier = since - (now - since).max(EARLIER);
                other.insert(Reading::of(earlier.max(oldest)))
            }
        };
        let old = reading.begun.0.elapsed() >= LIFE || reading.begun.1 < at;
        if reading.place.is_none() && old {
            reading.again();
        }
        // An error leaves the place, so that whoever comes next goes on there.
        while let Some(place) = reading.place.clone() {
            let page = if reading.pages < MOST_PAGES { read(place).await? } else { None };
            reading.pages += 1;
            if let Some(page) = page {
                reading.note(page);
            } else {
                (reading.place, reading.unread) = (None, true);
            }
        }
        let known = reading.last.get(&(action, account.to_owned())).cloned();
        Ok((!reading.unread).then(|| known.filter(|change| change.at >= since)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use time::macros::datetime;

    use super::*;

    const SINCE: OffsetDateTime = datetime!(2026-01-05 10:00 UTC);
    const EVER: time::Duration = time::Duration::days(365_000);
    const ASKED: Asked = Asked { since: SINCE, at: SINCE };

    fn change(minute: i64, by: &str) -> Change {
        Change { at: SINCE + time::Duration::minutes(minute), by: by.into() }
    }

    fn page(next: Option<&str>, changes: &[(&str, i64, &str)]) -> Page {
        let told = |(account, minute, by): &(&str, i64, &str)| {
            (Action::DisableAccount, (*account).to_owned(), change(*minute, by))
        };
        Page { changes: changes.iter().map(told).collect(), next: next.map(str::to_owned) }
    }

    #[tokio::test]
    async fn a_log_is_read_once_for_all_accounts_and_goes_on_where_an_error_stopped_it() {
        let (log, calls) = (Log::default(), AtomicUsize::new(0));
        let read = |place: Place| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                match (call, place) {
                    (0, Place::Since(_)) => Ok(Some(page(Some("two"), &[("a", 1, "ann"), ("a", 3, "bob")]))),
                    (1, Place::Link(_)) => Err(ProviderError::Throttled { retry_after: None }),
                    (2, Place::Link(link)) if link == "two" => Ok(Some(page(None, &[("a", 2, "carl")]))),
                    (call, place) => panic!("call {call}: {place:?}"),
                }
            }
        };
        let of = |account: &'static str, since| {
            log.tells((Action::DisableAccount, account), Asked { since, at: SINCE }, EVER, read)
        };
        assert!(matches!(of("a", SINCE).await, Err(ProviderError::Throttled { .. })), "nothing is guessed");
        assert_eq!(of("a", SINCE).await.unwrap(), Some(Some(change(3, "bob"))));
        assert_eq!(of("b", SINCE).await.unwrap(), Some(None));
        let later = SINCE + time::Duration::minutes(4);
        assert_eq!(of("a", later).await.unwrap(), Some(None), "what was before is no change since");
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn what_was_read_before_somebody_asked_does_not_answer_them() {
        let (log, calls) = (Log::default(), AtomicUsize::new(0));
        let read = |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            async { Ok(Some(page(None, &[]))) }
        };
        let ask = async |at| {
            let asked = Asked { since: SINCE, at };
            log.tells((Action::DisableAccount, "a"), asked, EVER, read).await.unwrap();
            calls.load(Ordering::Relaxed)
        };
        assert_eq!((ask(SINCE).await, ask(SINCE).await), (1, 1));
        // Asked after the reading above was begun.
        assert_eq!(ask(OffsetDateTime::now_utc()).await, 2);
    }

    #[tokio::test]
    async fn a_log_that_may_not_be_read_or_does_not_end_tells_nothing() {
        let none = Log::default();
        let read = |_| async { Ok(None) };
        assert_eq!(none.tells((Action::DisableAccount, "a"), ASKED, EVER, read).await.unwrap(), None);
        let endless = Log::default();
        let forgotten = Log::default();
        let never = |_| async { panic!("a log that does not go back so far is not asked") };
        let day = time::Duration::DAY;
        assert_eq!(forgotten.tells((Action::DisableAccount, "a"), ASKED, day, never).await.unwrap(), None);
        let read = |_| async { Ok(Some(page(Some("more"), &[]))) };
        assert_eq!(endless.tells((Action::DisableAccount, "a"), ASKED, EVER, read).await.unwrap(), None);
    }
}
