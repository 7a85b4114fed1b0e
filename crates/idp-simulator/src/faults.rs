//! Misbehaviour on request: each fault waits for a matching operation and fires a given number of times.

use std::sync::Mutex;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use crate::sync::lock;
use crate::wire::{self, Request, Surface};
use crate::{entra, okta};

/// One fault waiting to fire.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Name in reports; made up when absent.
    #[serde(default)]
    pub id: String,
    /// Directory id; absent = any.
    #[serde(default)]
    pub directory: Option<String>,
    /// Operation, as `GET /` of the control port lists them; `*` = any.
    pub operation: String,
    /// Object id of the account the operation is about; absent = any.
    #[serde(default)]
    pub account: Option<String>,
    /// Matching operations to let pass first.
    #[serde(default)]
    pub skip: u64,
    /// How often it fires.
    #[serde(default = "once")]
    pub times: u64,
    /// What happens.
    pub effect: Effect,
    /// Whether the directory does what was asked before the answer is spoilt. By default everything but a throttle, a
    /// status and a redirect comes after the deed.
    #[serde(default)]
    pub evaluate: Option<bool>,
}

fn once() -> u64 {
    1
}

/// What happens to an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// 429 in the provider's own words.
    Throttle {
        /// The delay hint, in one of the spellings seen in the wild.
        #[serde(default)]
        hint: Option<Hint>,
    },
    /// A bare status, with a body of HTML as gateways send it.
    Status {
        /// HTTP status.
        status: u16,
        /// When to come back.
        #[serde(default)]
        hint: Option<Hint>,
    },
    /// A refusal in the provider's own words.
    Code {
        /// An Okta code (`E0000010`), an AADSTS number, or a Graph code (`ServiceUnavailable`).
        code: String,
        /// HTTP status of a Graph code; the others have theirs.
        #[serde(default)]
        status: Option<u16>,
    },
    /// The right answer, late.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The connection is reset after the request was read.
    Reset,
    /// 200 with JSON of another shape.
    WrongJson,
    /// 200 with a page of HTML.
    Html,
    /// 200 with a body of this many bytes.
    Oversized {
        /// Bytes.
        bytes: u64,
    },
    /// 307 to somewhere else.
    Redirect {
        /// Where to.
        location: String,
    },
    /// An answer given word for word.
    Answer {
        /// HTTP status.
        status: u16,
        /// Body.
        json: serde_json::Value,
    },
}

/// A delay hint, in one of the spellings seen in the wild.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// `Retry-After: 10`
    Seconds(u64),
    /// `Retry-After: 2.128`, as the Graph documentation shows; the number is milliseconds.
    FractionalMs(u64),
    /// `Retry-After: Wed, 21 Oct 2026 07:28:00 GMT`, this many seconds ahead.
    HttpDate(i64),
    /// Okta: `X-Rate-Limit-Reset` as epoch seconds, this many seconds ahead.
    RateLimitReset(i64),
    /// Okta: too many calls at once, told by a limit of 0; the reset is a mere hint.
    Concurrency,
}

impl Fault {
    /// Whether the directory does what was asked before the answer is spoilt.
    pub fn evaluates(&self) -> bool {
        self.evaluate.unwrap_or(!matches!(
            self.effect,
            Effect::Throttle { .. }
                | Effect::Status { .. }
                | Effect::Code { .. }
                | Effect::Answer { .. }
                | Effect::Redirect { .. }
        ))
    }

    /// Short name for the log.
    pub fn name(&self) -> String {
        match &self.effect {
            Effect::Throttle { .. } => "throttle".into(),
            Effect::Status { status, .. } => format!("status {status}"),
            Effect::Code { code, .. } => format!("code {code}"),
            Effect::Delay { ms } => format!("delay {ms} ms"),
            Effect::Reset => "reset".into(),
            Effect::WrongJson => "wrong json".into(),
            Effect::Html => "html".into(),
            Effect::Oversized { bytes } => format!("oversized {bytes}"),
            Effect::Redirect { .. } => "redirect".into(),
            Effect::Answer { status, .. } => format!("answer {status}"),
        }
    }

    /// What takes the answer's place; `None` when the answer itself goes out (late) or nothing does.
    pub fn instead(&self, request: &Request, now: OffsetDateTime) -> Option<Response<Bytes>> {
        match &self.effect {
            Effect::Throttle { hint } => Some(throttled(&request.surface, *hint, now)),
            Effect::Status { status, hint } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut response = html(status, "<html><body>Service unavailable</body></html>");
                hinted(&mut response, *hint, now);
                Some(response)
            }
            Effect::Code { code, status } => Some(match &request.surface {
                Surface::EntraLogin => entra::refusal(request, now, code.parse().unwrap_or(50000)),
                Surface::Graph => entra::graph_refusal(request, now, status.unwrap_or(500), code),
                Surface::Okta(_) => okta::refusal(code),
            }),
            Effect::WrongJson => Some(wire::json(StatusCode::OK, &json!({"unexpected": ["shape"]}))),
            Effect::Html => Some(html(StatusCode::OK, "<!doctype html><title>Sign in</title>")),
            Effect::Redirect { location } => {
                let mut response = wire::empty(StatusCode::TEMPORARY_REDIRECT);
                wire::set_header(&mut response, LOCATION.as_str(), location);
                Some(response)
            }
            Effect::Answer { status, json } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Some(wire::json(status, json))
            }
            Effect::Delay { .. } | Effect::Reset | Effect::Oversized { .. } => None,
        }
    }
}

fn html(status: StatusCode, body: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

/// 429 in the provider's words. The login host's body is not documented (entra.md §3.2), so it has none.
pub fn throttled(surface: &Surface, hint: Option<Hint>, now: OffsetDateTime) -> Response<Bytes> {
    let mut response = match surface {
        Surface::EntraLogin => wire::empty(StatusCode::TOO_MANY_REQUESTS),
        Surface::Graph => wire::json(
            StatusCode::TOO_MANY_REQUESTS,
            &json!({"error": {"code": "TooManyRequests", "message": "Please retry again later.",
                "innerError": {"code": "429", "message": "Please retry after", "status": "429"}}}),
        ),
        Surface::Okta(_) => wire::json(
            StatusCode::TOO_MANY_REQUESTS,
            &json!({"errorCode": "E0000047", "errorLink": "E0000047", "errorCauses": [],
                "errorId": "oaeThrottled",
                "errorSummary": "API call exceeded rate limit due to too many requests."}),
        ),
    };
    hinted(&mut response, hint, now);
    response
}

fn hinted(response: &mut Response<Bytes>, hint: Option<Hint>, now: OffsetDateTime) {
    match hint {
        None => {}
        Some(Hint::Seconds(s)) => wire::set_header(response, RETRY_AFTER.as_str(), &s.to_string()),
        Some(Hint::FractionalMs(ms)) => {
            let text = format!("{}.{:03}", ms / 1000, ms % 1000);
            wire::set_header(response, RETRY_AFTER.as_str(), &text);
        }
        Some(Hint::HttpDate(ahead)) => {
            let text = http_date(now + Duration::seconds(ahead));
            wire::set_header(response, RETRY_AFTER.as_str(), &text);
        }
        Some(Hint::RateLimitReset(ahead)) => rate_limit(response, "1", now, Duration::seconds(ahead)),
        Some(Hint::Concurrency) => rate_limit(response, "0", now, Duration::minutes(1)),
    }
}

fn rate_limit(response: &mut Response<Bytes>, limit: &str, now: OffsetDateTime, ahead: Duration) {
    let resets = now + ahead;
    // A reset is told by the org's clock, and so is the date beside it.
    wire::set_header(response, "date", &http_date(now));
    wire::set_header(response, "x-rate-limit-limit", limit);
    wire::set_header(response, "x-rate-limit-remaining", "0");
    wire::set_header(response, "x-rate-limit-reset", &resets.unix_timestamp().to_string());
}

/// A date as HTTP headers spell it (RFC 9110 §5.6.7).
pub fn http_date(at: OffsetDateTime) -> String {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

/// All waiting faults.
#[derive(Debug, Default)]
pub struct Faults {
    waiting: Mutex<Vec<Fault>>,
}

impl Faults {
    /// Adds one, and gives it a name if it has none.
    pub fn add(&self, mut fault: Fault) -> Fault {
        let mut waiting = lock(&self.waiting);
        if fault.id.is_empty() {
            fault.id = uuid::Uuid::new_v4().to_string();
        }
        waiting.push(fault.clone());
        fault
    }

    /// Takes the first fault that waits for this operation.
    pub fn take(&self, directory: &str, operation: &str, account: Option<&str>) -> Option<Fault> {
        let mut waiting = lock(&self.waiting);
        let at = waiting.iter().position(|fault| {
            (fault.operation == "*" || fault.operation == operation)
                && fault.directory.as_deref().is_none_or(|d| d == directory)
                && fault.account.as_deref().is_none_or(|a| Some(a) == account)
        })?;
        let fault = waiting.get_mut(at)?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times = fault.times.saturating_sub(1);
        let taken = fault.clone();
        if taken.times == 0 {
            waiting.remove(at);
        }
        Some(taken)
    }

    /// Faults that have not fired as often as they should.
    pub fn unfired(&self) -> Vec<Fault> {
        lock(&self.waiting).clone()
    }

    /// Forgets all.
    pub fn clear(&self) {
        lock(&self.waiting).clear();
    }
}
