//! What an answer of `/api/v1/authn` proves: one table, as data (§4.1, read as design §6 says).

use serde::Deserialize;

use crate::{
    provider::{Account, AccountState, http::object},
    verdict::{Reason, Verdict},
};

/// What a row of the table means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The answer itself proves it.
    Proves(Verdict),
    /// Right password and a second factor, if the answer shows that the password came first; factor sequencing can
    /// ask for others before it.
    SecondFactor,
    /// Wrong password, or no such user, or locked, or refused by a policy: the account, read before and after, decides.
    Refusal,
    /// Not evaluated now; the slot stays spent.
    Throttled,
}

/// What an answer says beyond its verdict; [`super::authn`] turns it into a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Nothing.
    Nothing,
    /// The account is locked, or our address is blocked.
    Locked,
    /// The org does not let us use this method.
    Configuration,
    /// Not in the table.
    UnknownCode,
}

/// Which statuses a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Exactly this one.
    Is(u16),
    /// All of one hundred.
    Class(u16),
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// HTTP status.
    pub status: Status,
    /// `status` of a 200, `errorCode` of the rest; `None`: whatever it is. The first row that fits counts.
    pub code: Option<&'static str>,
    /// What it proves.
    pub meaning: Meaning,
    /// What else it says.
    pub beyond: Beyond,
}

const fn row(status: u16, code: &'static str, meaning: Meaning, beyond: Beyond) -> Row {
    Row { status: Status::Is(status), code: Some(code), meaning, beyond }
}

const fn any(status: Status, meaning: Meaning, beyond: Beyond) -> Row {
    Row { status, code: None, meaning, beyond }
}

const fn unclear(reason: Reason) -> Meaning {
    Meaning::Proves(Verdict::Inconclusive(reason))
}

/// The table. Where the fact sheet only guesses that a password was right, nothing is proven (I3).
pub const TABLE: &[Row] = &[
    row(200, "SUCCESS", Meaning::Proves(Verdict::Valid), Beyond::Nothing),
    row(200, "PASSWORD_WARN", Meaning::Proves(Verdict::Valid), Beyond::Nothing),
    row(200, "PASSWORD_EXPIRED", Meaning::Proves(Verdict::ValidExpired), Beyond::Nothing),
    row(200, "MFA_REQUIRED", Meaning::SecondFactor, Beyond::Nothing),
    row(200, "MFA_ENROLL", Meaning::SecondFactor, Beyond::Nothing),
    row(200, "MFA_CHALLENGE", Meaning::SecondFactor, Beyond::Nothing),
    row(200, "MFA_ENROLL_ACTIVATE", Meaning::SecondFactor, Beyond::Nothing),
    row(200, "LOCKED_OUT", unclear(Reason::LockedOrBlocked), Beyond::Locked),
    row(200, "RECOVERY", unclear(Reason::Refused), Beyond::Nothing),
    row(200, "RECOVERY_CHALLENGE", unclear(Reason::Refused), Beyond::Nothing),
    row(200, "PASSWORD_RESET", unclear(Reason::Refused), Beyond::Nothing),
    row(200, "UNAUTHENTICATED", unclear(Reason::Refused), Beyond::Nothing),
    row(401, "E0000004", Meaning::Refusal, Beyond::Nothing),
    row(401, "E0000207", Meaning::Refusal, Beyond::Nothing),
    row(401, "E0000064", unclear(Reason::Refused), Beyond::Nothing),
    row(401, "E0000015", unclear(Reason::Configuration), Beyond::Configuration),
    row(403, "E0000006", unclear(Reason::LockedOrBlocked), Beyond::Locked),
    row(403, "E0000069", unclear(Reason::LockedOrBlocked), Beyond::Locked),
    row(403, "E0000085", unclear(Reason::Refused), Beyond::Nothing),
    row(403, "E0000259", unclear(Reason::Refused), Beyond::Nothing),
    row(400, "E0000001", unclear(Reason::Refused), Beyond::Nothing),
    row(400, "E0000003", unclear(Reason::Refused), Beyond::Nothing),
    row(404, "E0000008", unclear(Reason::Configuration), Beyond::Configuration),
    row(405, "E0000022", unclear(Reason::Configuration), Beyond::Configuration),
    row(410, "E0000215", unclear(Reason::Configuration), Beyond::Configuration),
    any(Status::Is(429), Meaning::Throttled, Beyond::Nothing),
    any(Status::Class(3), unclear(Reason::UnreadableAnswer), Beyond::Nothing),
    any(Status::Class(5), unclear(Reason::Unknown), Beyond::Nothing),
];

/// Where no row fits.
const UNLISTED: Row = any(Status::Class(0), unclear(Reason::UnknownCode), Beyond::UnknownCode);
/// Where the answer has no code to look for.
const UNREADABLE: Row = any(Status::Class(0), unclear(Reason::UnreadableAnswer), Beyond::Nothing);

/// What we read of an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    status: Option<serde_json::Value>,
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
    #[serde(rename = "_embedded")]
    embedded: Embedded,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Embedded {
    user: Option<serde_json::Value>,
    factors: Vec<Factor>,
    /// The spelling of the prose (§4.1).
    factor: Option<Factor>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Factor {
    #[serde(rename = "factorType")]
    kind: String,
}

/// What an answer means so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The row's meaning; [`Meaning::SecondFactor`] is already decided.
    pub meaning: Meaning,
    /// What else it says.
    pub beyond: Beyond,
    /// The code, from the table or of Okta's shape; never free text of the answer.
    pub code: Option<Code>,
}

/// A code that may be stored and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// One of the table's.
    Known(&'static str),
    /// `E` and these digits.
    Numbered(u32),
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(code) => f.write_str(code),
            Self::Numbered(number) => write!(f, "E{number:07}"),
        }
    }
}

/// Reads an answer.
pub fn read(status: u16, body: &[u8]) -> Reading {
    let body = object::<Body>(body).unwrap_or_default();
    let code = match (status, &body.status, &body.error_code) {
        (200, Some(serde_json::Value::String(code)), _) | (_, _, Some(code)) => Some(code.as_str()),
        _ => None,
    };
    let fits = |row: &&Row| {
        let status_fits = match row.status {
            Status::Is(is) => is == status,
            Status::Class(class) => status / 100 == class,
        };
        status_fits && (row.code.is_none() || row.code == code)
    };
    let row = TABLE.iter().find(fits).unwrap_or(if code.is_some() { &UNLISTED } else { &UNREADABLE });
    let meaning = match row.meaning {
        Meaning::SecondFactor if password_came_first(&body.embedded) => {
            Meaning::Proves(Verdict::ValidSecondFactor)
        }
        Meaning::SecondFactor => unclear(Reason::Refused),
        other => other,
    };
    let code = row.code.map(Code::Known).or_else(|| code.and_then(numbered));
    Reading { meaning, beyond: row.beyond, code }
}

fn password_came_first(embedded: &Embedded) -> bool {
    let mut factors = embedded.factors.iter().chain(&embedded.factor);
    embedded.user.as_ref().is_some_and(serde_json::Value::is_object) && factors.all(|f| f.kind != "password")
}

fn numbered(code: &str) -> Option<Code> {
    let digits = code.strip_prefix('E').filter(|d| d.len() == 7 && d.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().map(Code::Numbered)
}

/// What a refusal proves, given the account before and after it.
///
/// INVARIANT: `invalid` only if the account was active and unlocked both times, under the same name (design §6).
pub fn refusal(before: &Account, after: Option<&Account>) -> (Verdict, Beyond) {
    let unclear = |reason, beyond| (Verdict::Inconclusive(reason), beyond);
    let Some(after) = after.filter(|a| a.object_id == before.object_id && a.login == before.login) else {
        return unclear(Reason::StateUnread, Beyond::Nothing);
    };
    match (before.state, after.state) {
        (AccountState::Active, AccountState::Active) => (Verdict::Invalid, Beyond::Nothing),
        (AccountState::Locked, _) | (_, AccountState::Locked) => {
            unclear(Reason::LockedOrBlocked, Beyond::Locked)
        }
        _ => unclear(Reason::AccountState, Beyond::Nothing),
    }
}

/// What is left of a refusal's proof when the org's log gives its reason. Without one it stays as it is.
///
/// INVARIANT: a reason other than a wrong password never proves one (I3).
pub fn logged((verdict, beyond): (Verdict, Beyond), reason: Option<&str>) -> (Verdict, Beyond) {
    match (verdict, reason) {
        (Verdict::Invalid, Some("LOCKED_OUT")) => {
            (Verdict::Inconclusive(Reason::LockedOrBlocked), Beyond::Locked)
        }
        (Verdict::Invalid, Some(other)) if other != "INVALID_CREDENTIALS" => {
            (Verdict::Inconclusive(Reason::Refused), Beyond::Nothing)
        }
        unchanged => (unchanged.0, beyond),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
