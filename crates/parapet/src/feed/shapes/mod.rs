//! The shapes of the feeds, recognised by what an object contains, never by a file's name.

use std::sync::Arc;

use super::{
    content,
    date::Span,
    fields::{Fields, elements},
    record::{Cookie, Origin, OriginKind, Record, Reject},
    scan::ENVELOPES,
};

mod flare;
mod hibp;
mod hudson_rock;
mod recorded_future;
mod spycloud;

/// What came out of one object: records, refusals, and cookies that belong to no credential of their log.
#[derive(Default)]
pub(super) struct Found {
    pub(super) records: Vec<Result<Record, Reject>>,
    pub(super) cookies_left_out: u64,
}

impl Found {
    fn push(&mut self, record: Result<Record, Reject>) {
        self.records.push(record.and_then(Record::checked));
    }
}

/// What an envelope says about the records in it.
#[derive(Default)]
pub(super) struct Context {
    /// The envelope is a stealer's log.
    pub(super) is_log: bool,
    /// When the device was infected.
    pub(super) captured: Option<Span>,
    /// When the feed took the log in.
    pub(super) imported: Option<Span>,
    /// The log's id.
    pub(super) id: String,
    /// Family of the malware.
    pub(super) malware: String,
    /// 0 to 100.
    pub(super) severity: Option<u8>,
    /// Session cookies of all sites.
    pub(super) cookies: Vec<Cookie>,
    /// A further page is named.
    pub(super) continues: bool,
}

impl Context {
    /// Reads the members of an envelope.
    pub(super) fn read(text: &[u8]) -> Self {
        let Some(fields) = std::str::from_utf8(text).ok().and_then(Fields::parse) else {
            return Self::default();
        };
        Self::of(&fields)
    }

    fn of(fields: &Fields<'_>) -> Self {
        let mut context = flare::log(fields);
        context.continues =
            ["next", "cursor"].iter().any(|key| fields.has(key) && fields.text(key).is_some());
        context
    }
}

/// Options that a file cannot answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    /// The domain of HIBP's aliases.
    pub(super) domain: Option<Arc<str>>,
}

/// Reads one object, with everything inside it that is a record of its own. `piece` is above zero for the further
/// pieces of an object that was too large for one.
pub(super) fn read(text: &str, context: &Context, piece: u32, hints: &Hints, found: &mut Found) {
    let Some(fields) = Fields::parse(text) else {
        let fault = if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
            Reject::Unrecognised // JSON, but no object
        } else {
            Reject::Malformed
        };
        found.records.push(Err(fault));
        return;
    };
    if piece > 0 && !hibp::is_domain_result(&fields) {
        return; // its first piece was refused for all of it
    }
    if fields.has("event_type") {
        flare::event(&fields, found);
    } else if let Some(records) = ENVELOPES.iter().find_map(|key| fields.array(key)) {
        // Cut off from the rest, an array of scalars is nothing of ours.
        let inner = Context::of(&fields);
        for record in records {
            read(record, &inner, 0, hints, found);
        }
        found.cookies_left_out += inner.cookies_without_credential(&fields);
    } else if flare::is_credential(&fields) {
        found.push(flare::credential(&fields));
    } else if spycloud::is_record(&fields) {
        found.push(spycloud::record(&fields));
    } else if recorded_future::is_record(&fields) {
        found.push(recorded_future::record(&fields));
    } else if flare::is_log_credential(&fields, context) {
        found.push(flare::log_credential(&fields, context));
    } else if hudson_rock::is_credential(&fields) {
        found.push(hudson_rock::credential(&fields));
    } else if hibp::is_domain_result(&fields) {
        hibp::domain_result(&fields, hints.domain.as_deref(), found);
    } else {
        found.push(Err(Reject::Unrecognised));
    }
}

impl Context {
    /// The cookies that are sent to a target's host.
    fn cookies_for(&self, target: &str) -> Vec<Cookie> {
        let Some(host) = host_of(target) else { return Vec::new() };
        self.cookies.iter().filter(|c| belongs(&host, &c.domain)).take(COOKIES_LIMIT).cloned().collect()
    }

    fn cookies_without_credential(&self, log: &Fields<'_>) -> u64 {
        if self.cookies.is_empty() {
            return 0;
        }
        let hosts: Vec<String> = log
            .objects("credentials")
            .iter()
            .filter_map(|c| host_of(&content::target(&c.text("url")?)?))
            .collect();
        let left = self.cookies.iter().filter(|c| !hosts.iter().any(|host| belongs(host, &c.domain)));
        u64::try_from(left.count()).unwrap_or(u64::MAX)
    }
}

/// The most cookies kept with one record.
const COOKIES_LIMIT: usize = 50;

/// The cookies of an object.
fn cookies(fields: &Fields<'_>) -> Vec<Cookie> {
    fields.objects("cookies").iter().filter_map(cookie).collect()
}

/// One cookie, in the words of any feed. One that is larger than a browser keeps is none.
fn cookie(fields: &Fields<'_>) -> Option<Cookie> {
    let domain = fields.first_text(&["host_key", "domain", "dns", "cookie_domain"])?;
    let cookie = Cookie {
        domain: domain.trim_start_matches('.').to_ascii_lowercase(),
        path: fields.text("path").unwrap_or_default(),
        name: fields.first_text(&["name", "cookie_name"]).unwrap_or_default(),
        value: fields.secret("value").or_else(|| fields.secret("cookie_value")),
        expires_at: fields
            .first_span(&["expires_at", "expires_utc", "expiration", "cookie_expiration"])
            .map(|span| span.until),
    };
    let fits = cookie.domain.len() <= 253
        && cookie.path.len() <= 1024
        && cookie.name.len() <= 256
        && cookie.value.as_ref().is_none_or(|v| v.expose().len() <= 4096);
    fits.then_some(cookie)
}

fn host_of(target: &str) -> Option<String> {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let host = rest.split(['/', ':']).next()?;
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

fn belongs(host: &str, domain: &str) -> bool {
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Words in a source's name that tell how it came by its records.
fn kind_by_words(words: &str) -> Option<OriginKind> {
    let words = words.to_ascii_lowercase();
    [
        ("stealer", OriginKind::Stealer),
        ("malware", OriginKind::Stealer),
        ("botnet", OriginKind::Stealer),
        ("combo", OriginKind::Combolist),
        ("phish", OriginKind::Phish),
        ("paste", OriginKind::Paste),
        ("breach", OriginKind::Breach),
        ("exfiltrated", OriginKind::Breach),
    ]
    .into_iter()
    .find_map(|(word, kind)| words.contains(word).then_some(kind))
}

/// Severity in words, as Flare and Recorded Future write it.
fn severity_by_word(word: &str) -> Option<u8> {
    match word.to_ascii_lowercase().as_str() {
        "info" | "informational" => Some(10),
        "low" => Some(30),
        "medium" | "moderate" => Some(50),
        "high" => Some(75),
        "critical" => Some(95),
        _ => None,
    }
}

fn origin(id: Option<String>, name: Option<String>, kind: OriginKind) -> Origin {
    Origin { id: id.unwrap_or_default(), name: name.unwrap_or_default(), kind }
}

fn targets<I: IntoIterator<Item = String>>(places: I) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for place in places.into_iter().filter_map(|place| content::target(&place)) {
        if all.len() < 20 && !all.contains(&place) {
            all.push(place);
        }
    }
    all
}

fn array_of_texts(raw: &str) -> Option<Vec<String>> {
    elements(raw)?
        .into_iter()
        .map(|element| element.starts_with('"').then(|| serde_json::from_str(element).ok()).flatten())
        .collect()
}
