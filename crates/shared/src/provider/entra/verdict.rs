//! What the token endpoint's answers to a password prove (entra.md §5), as data.

use std::time::Duration;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::{
    provider::{Signal, http::object},
    verdict::{Reason, Verdict},
};

/// What one AADSTS code says about the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Step 1 of the evaluation failed: the password was never looked at, and never will be until a person acts.
    Configuration,
    /// Smart lockout, or our address counts as malicious: the same answer whatever the password.
    Locked,
    /// Microsoft cannot answer now.
    Transient,
    /// Microsoft asks this client to slow down.
    Throttled,
    /// Right, and must be changed.
    Expired,
    /// Right: everything behind the first factor is evaluated only once it succeeded (entra.md §4.3).
    SecondFactor,
    /// Wrong.
    Invalid,
    /// It can never be tested like this.
    NotTestable(Reason),
    /// It proves nothing.
    Inconclusive(Reason),
}

use Meaning::{
    Configuration, Expired, Inconclusive, Invalid, Locked, NotTestable, SecondFactor, Throttled, Transient,
};

/// Every code entra.md §5 knows. What is not here is unknown, and unknown never means wrong.
#[rustfmt::skip]
#[expect(clippy::unreadable_literal, reason = "these are names, read digit by digit")]
pub(super) const TABLE: &[(u32, Meaning)] = &[
    // §5.1 password-related
    (50126, Invalid),                                // unless the domain is federated, see `rule`
    (50064, Invalid),
    (50056, NotTestable(Reason::Passwordless)),
    (50055, Expired),
    (50144, Expired),
    (50057, NotTestable(Reason::AccountDisabled)),   // whether the password was right is contested
    (50053, Locked),
    (500532, Locked),
    (50034, NotTestable(Reason::AccountGone)),
    (51004, NotTestable(Reason::AccountGone)),
    (16003, NotTestable(Reason::AccountGone)),
    (50059, Configuration),                          // we always name the tenant ourselves
    (50128, Configuration),
    (50020, Inconclusive(Reason::External)),
    (500208, Inconclusive(Reason::External)),
    (50014, Inconclusive(Reason::External)),
    (90072, Inconclusive(Reason::External)),
    (50180, NotTestable(Reason::Federated)),
    (50107, NotTestable(Reason::Federated)),
    (50008, NotTestable(Reason::Federated)),
    (20001, NotTestable(Reason::Federated)),
    (20012, NotTestable(Reason::Federated)),
    (20033, NotTestable(Reason::Federated)),
    (40008, NotTestable(Reason::Federated)),
    (40009, NotTestable(Reason::Federated)),
    (40010, NotTestable(Reason::Federated)),
    (40011, NotTestable(Reason::Federated)),
    (40012, NotTestable(Reason::Federated)),
    (40013, NotTestable(Reason::Federated)),
    (40014, NotTestable(Reason::Federated)),
    (40015, NotTestable(Reason::Federated)),
    // §5.2 after the first factor
    (50076, SecondFactor),
    (50079, SecondFactor),
    (50072, SecondFactor),
    (50074, SecondFactor),
    (50078, SecondFactor),
    (50158, SecondFactor),
    (53003, SecondFactor),
    (53000, SecondFactor),
    (53001, SecondFactor),
    (53002, SecondFactor),
    (530002, SecondFactor),
    (530003, SecondFactor),
    (530021, SecondFactor),
    (530031, SecondFactor),
    (530032, SecondFactor),
    (50131, SecondFactor),
    (53004, SecondFactor),
    (50135, Expired),
    (50142, Expired),
    (50125, SecondFactor),
    (50097, SecondFactor),
    (50129, SecondFactor),
    (50005, SecondFactor),
    (50105, SecondFactor),
    (65001, SecondFactor),
    (90094, SecondFactor),
    (90095, SecondFactor),
    (65004, SecondFactor),
    (80012, SecondFactor),
    (50140, SecondFactor),
    (50199, SecondFactor),
    (54000, SecondFactor),
    // §5.2, lower confidence: kept unknown
    (50155, Inconclusive(Reason::Refused)),
    (530034, Inconclusive(Reason::Refused)),
    (530035, Inconclusive(Reason::Refused)),
    (53010, Inconclusive(Reason::Refused)),
    (53011, Inconclusive(Reason::Refused)),
    (50132, Inconclusive(Reason::Refused)),
    (50133, Inconclusive(Reason::Refused)),
    (50173, Inconclusive(Reason::Refused)),
    (50161, Inconclusive(Reason::Refused)),
    (50166, Inconclusive(Reason::Refused)),
    (50170, Inconclusive(Reason::Refused)),
    (50177, Inconclusive(Reason::Refused)),
    // §5.3 configuration
    (7000215, Configuration),
    (7000222, Configuration),
    (7000218, Configuration),
    (700025, Configuration),
    (700027, Configuration),
    (700030, Configuration),
    (50012, Configuration),
    (50027, Configuration),
    (700016, Configuration),
    (700011, Configuration),
    (700038, Configuration),
    (7000112, Configuration),
    (70001, Configuration),
    (90002, Configuration),
    (900023, Configuration),
    (90038, Configuration),
    (900382, Configuration),
    (900432, Configuration),
    (90051, Configuration),
    (9001023, Configuration),
    (90124, Configuration),
    (90130, Configuration),
    (50194, Configuration),
    (50049, Configuration),
    (70003, Configuration),
    (70011, Configuration),
    (28002, Configuration),
    (28003, Configuration),
    (WRAPPER, Configuration),                        // alone; beside another code it says nothing
    (500011, Configuration),
    (50001, Configuration),
    (650052, Configuration),
    (650054, Configuration),
    (650056, Configuration),
    (650057, Configuration),
    (900144, Configuration),
    (90014, Configuration),
    (90013, Configuration),
    (90023, Configuration),
    (9002313, Configuration),
    (1002012, Configuration),
    (50002, Configuration),
    (500021, Configuration),
    (500022, Configuration),
    (500212, Configuration),
    (500213, Configuration),
    (1000031, Configuration),
    // §5.4 to be tried again
    (50196, Throttled),
    (90055, Throttled),
    (90006, Transient),
    (90012, Transient),
    (90024, Transient),
    (90033, Transient),
    (90090, Transient),
    (90091, Transient),
    (50033, Transient),
    (50000, Transient),
    (50087, Transient),
    (50088, Transient),
    (80001, Transient),
    (80002, Transient),
    (80005, Transient),
    (80007, Transient),
    (80010, Transient),
    (80013, Transient),
    (80014, Transient),
];

/// The old endpoint's wrapper around another code.
const WRAPPER: u32 = 70_002;

/// How long after an answer that says "not now" another attempt makes sense, if the answer does not say.
const LATER: Duration = Duration::from_mins(15);
/// How long a client that is told to slow down stays away (entra.md §5.4).
const SLOW_DOWN: Duration = Duration::from_mins(5);

/// The body of a refusal, as far as it is read.
#[derive(Deserialize)]
struct Refusal {
    error: Option<String>,
    #[serde(default)]
    error_codes: Vec<u32>,
    #[serde(default)]
    error_description: String,
}

/// The AADSTS codes of an answer; `None` when it is no answer of the token endpoint.
pub(super) fn codes(body: &[u8]) -> Option<Vec<u32>> {
    let Refusal { error: _, error_codes, error_description } = object(body)?;
    if error_codes.is_empty() {
        Some(described(&error_description).into_iter().collect())
    } else {
        Some(error_codes)
    }
}

/// `AADSTS50126: …` → 50126. The whole number: one code is the beginning of another.
fn described(text: &str) -> Option<u32> {
    let digits = text.split_once("AADSTS")?.1;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What an answer proves, its code, and what it says beyond the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ruling {
    pub verdict: Verdict,
    pub code: Option<u32>,
    pub signal: Signal,
}

/// Reads an answer. `federated`: the account's domain is federated, so its password was never checked.
pub(super) fn rule(
    status: u16,
    body: &[u8],
    retry_after: Option<Duration>,
    federated: bool,
    now: OffsetDateTime,
) -> Ruling {
    #[derive(Deserialize)]
    struct Granted {
        #[serde(rename = "access_token")]
        _access_token: serde::de::IgnoredAny,
    }
    let ruling = |verdict, code, signal| Ruling { verdict, code, signal };
    let unreadable = ruling(Verdict::Inconclusive(Reason::UnreadableAnswer), None, Signal::None);
    match status {
        200 if object::<Granted>(body).is_some() => {
            return ruling(Verdict::Valid, None, Signal::None);
        }
        429 => {
            let wait = retry_after.unwrap_or(SLOW_DOWN);
            return ruling(Verdict::Deferred(now + wait, Reason::Throttled), None, Signal::Throttled(wait));
        }
        500.. => return ruling(Verdict::Deferred(now + LATER, Reason::Unavailable), None, Signal::None),
        400..=499 => {}
        _ => return unreadable,
    }
    let Some(codes) = codes(body) else { return unreadable };
    let Some((code, meaning)) = weigh(&codes) else {
        let busy = object::<Refusal>(body).and_then(|r| r.error);
        return match (codes.first(), busy.as_deref()) {
            (Some(unknown), _) => {
                ruling(Verdict::Inconclusive(Reason::UnknownCode), Some(*unknown), Signal::UnknownCode)
            }
            (None, Some("temporarily_unavailable")) => {
                ruling(Verdict::Deferred(now + LATER, Reason::Unavailable), None, Signal::None)
            }
            (None, _) => unreadable,
        };
    };
    let (verdict, signal) = match meaning {
        Configuration => (Verdict::Inconclusive(Reason::Configuration), Signal::Configuration),
        Locked => (Verdict::Inconclusive(Reason::LockedOrBlocked), Signal::Locked),
        Throttled => (Verdict::Deferred(now + SLOW_DOWN, Reason::Throttled), Signal::Throttled(SLOW_DOWN)),
        Transient => (Verdict::Deferred(now + LATER, Reason::Unavailable), Signal::None),
        Expired => (Verdict::ValidExpired, Signal::None),
        SecondFactor => (Verdict::ValidSecondFactor, Signal::None),
        Invalid if federated => (Verdict::NotTestable(Reason::Federated), Signal::None),
        Invalid => (Verdict::Invalid, Signal::None),
        NotTestable(reason) => (Verdict::NotTestable(reason), Signal::None),
        Inconclusive(reason) => (Verdict::Inconclusive(reason), Signal::None),
    };
    ruling(verdict, Some(code), signal)
}

/// Whether a sign-in with this code met a locked account, or a blocked address.
pub(super) fn is_lock(code: u32) -> bool {
    TABLE.contains(&(code, Locked))
}

/// Whether a sign-in with this code had a wrong password.
pub(super) fn is_wrong_password(code: u32) -> bool {
    TABLE.contains(&(code, Invalid))
}

/// The code that decides among those of one answer, in the order of entra.md §5.6; `None` when none is known.
fn weigh(codes: &[u32]) -> Option<(u32, Meaning)> {
    let wrapped = codes.iter().any(|code| *code != WRAPPER);
    let known = codes
        .iter()
        .filter(|code| !(wrapped && **code == WRAPPER))
        .filter_map(|code| TABLE.iter().find(|(known, _)| known == code).copied());
    known.min_by_key(|(_, meaning)| match meaning {
        Configuration => 0,
        Locked => 1,
        Throttled | Transient => 2,
        Expired | SecondFactor => 3,
        Invalid => 4,
        NotTestable(_) => 5,
        Inconclusive(_) => 6,
    })
}

#[cfg(test)]
mod tests;
