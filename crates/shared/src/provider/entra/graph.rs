//! Calls to Microsoft Graph: the bearer token, errors in our vocabulary, and lists.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use reqwest::RequestBuilder;
use serde::{Deserialize, de::DeserializeOwned};

use super::token::{Token, Tokens};
use crate::provider::{
    Missing, ProviderError,
    http::{self as egress, Answer, Egress},
    pace::{Pace, Quota, Share},
};

/// Pages of a short list (domains, licences, role assignments) that are followed before giving up.
const MAX_SHORT_PAGES: usize = 200;

/// The quota of an application in the smallest tenants (entra.md §7.4): a tenant does not tell its size class.
/// Resource units of all calls;
const UNITS: (&str, Quota) = ("units", Quota { limit: 3_500, period: Duration::from_secs(10) });
/// and writes, counted besides.
const WRITES: (&str, Quota) = ("writes", Quota { limit: 3_000, period: Duration::from_secs(150) });
/// Reports, the log of sign-ins among them, have a quota of their own.
const REPORTS: (&str, Quota) = ("reports", Quota { limit: 5, period: Duration::from_secs(10) });
/// What a 429 without a usable hint asks for.
const UNTOLD: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Graph {
    egress: Egress,
    host: &'static str,
    tokens: Tokens,
    pace: Arc<Pace>,
    share: Share,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
    value: Vec<T>,
}

impl Graph {
    pub fn new(egress: Egress, host: &'static str, tokens: Tokens) -> Self {
        Self { egress, host, tokens, pace: Arc::default(), share: Share::WHOLE }
    }

    pub fn paced(self, pace: Arc<Pace>, share: Share) -> Self {
        Self { pace, share, ..self }
    }

    /// The application permissions we come with; `None` when they cannot be known.
    pub async fn permissions(&self) -> Result<Option<BTreeSet<String>>, ProviderError> {
        Ok(self.tokens.get().await?.permissions.clone())
    }

    /// Object id of our service principal; `None` when it cannot be known.
    pub async fn principal(&self) -> Result<Option<String>, ProviderError> {
        Ok(self.tokens.get().await?.principal.clone())
    }

    /// The URL of a path below the version root.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}/v1.0{path}", self.host)
    }

    /// A link Graph gave us, if it leads to Graph and below `path`: only such links are ever followed.
    pub fn own_link<'l>(&self, link: &'l str, path: &str) -> Result<&'l str, ProviderError> {
        let foreign = || ProviderError::Protocol("a link leads elsewhere");
        let url = url::Url::parse(link).map_err(|_| foreign())?;
        let ours = url.scheme() == "https"
            && url.host_str() == Some(self.host)
            && url.port().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path().strip_prefix("/v1.0").is_some_and(|rest| rest == path);
        ours.then_some(link).ok_or_else(foreign)
    }

    /// Reads a path below the version root; every status but 200 is an error.
    pub async fn get(&self, path: &str) -> Result<Answer, ProviderError> {
        self.get_url(&self.url(path)).await
    }

    /// Reads a report's URL; every status but 200 is an error.
    pub async fn report(&self, url: &str) -> Result<Answer, ProviderError> {
        let answer = self.reading(REPORTS, Method::GET, url, |request| request).await?;
        if answer.status == 200 { Ok(answer) } else { Err(error(&answer)) }
    }

    /// Reads one object; `None` when it does not exist.
    pub async fn find(&self, path: &str) -> Result<Option<Answer>, ProviderError> {
        let answer = self.read(&self.url(path)).await?;
        match answer.status {
            200 => Ok(Some(answer)),
            404 => Ok(None),
            _ => Err(error(&answer)),
        }
    }

    /// Reads a URL; every status but 200 is an error.
    pub async fn get_url(&self, url: &str) -> Result<Answer, ProviderError> {
        let answer = self.read(url).await?;
        if answer.status == 200 { Ok(answer) } else { Err(error(&answer)) }
    }

    /// Reads a URL with Graph's advanced query engine, which lags behind writes by some seconds; whatever comes back.
    pub async fn read_advanced(&self, url: &str) -> Result<Answer, ProviderError> {
        let eventual = |request: RequestBuilder| request.header("ConsistencyLevel", "eventual");
        self.reading(UNITS, Method::GET, url, eventual).await
    }

    /// How many objects a list has.
    pub async fn count(&self, path: &str) -> Result<i64, ProviderError> {
        let url = self.url(&format!("{path}/$count"));
        let plain = |request: RequestBuilder| {
            request.header("ConsistencyLevel", "eventual").header(http::header::ACCEPT, "text/plain")
        };
        let answer = self.reading(UNITS, Method::GET, &url, plain).await?;
        if answer.status != 200 {
            return Err(error(&answer));
        }
        // Some of Microsoft's front ends begin text with a byte order mark.
        let text = std::str::from_utf8(&answer.body).unwrap_or_default();
        let count = text.trim_start_matches('\u{feff}').trim().parse();
        count.map_err(|_| ProviderError::Protocol("a count that is no number"))
    }

    async fn read(&self, url: &str) -> Result<Answer, ProviderError> {
        self.reading(UNITS, Method::GET, url, |request| request).await
    }

    /// Asks with a body what changes nothing; every status but 200 is an error.
    pub async fn ask(&self, path: &str, body: &serde_json::Value) -> Result<Answer, ProviderError> {
        let with = |request: RequestBuilder| request.json(body);
        let answer = self.reading(UNITS, Method::POST, &self.url(path), with).await?;
        if answer.status == 200 { Ok(answer) } else { Err(error(&answer)) }
    }

    /// A refused token is replaced once: one may be revoked before its time (entra.md §7.2).
    async fn reading(
        &self,
        quota: (&'static str, Quota),
        method: Method,
        url: &str,
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, ProviderError> {
        self.admit(quota).await?;
        let token = self.tokens.get().await?;
        let request = || with(self.egress.request(method.clone(), url));
        let mut answer = self.send(quota.0, &token, request()).await?;
        if answer.status == 401 {
            self.tokens.discard(&token).await;
            let fresh = self.tokens.get().await?;
            answer = self.send(quota.0, &fresh, request()).await?;
        }
        Ok(answer)
    }

    /// A whole list that is known to be short.
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ProviderError> {
        let below = path.split('?').next().unwrap_or(path).to_owned();
        let mut url = self.url(path);
        let mut all = Vec::new();
        for _ in 0..MAX_SHORT_PAGES {
            let List { next, value } = self.get_url(&url).await?.json()?;
            all.extend(value);
            match next {
                None => return Ok(all),
                Some(link) => url = self.own_link(&link, &below)?.to_owned(),
            }
        }
        Err(ProviderError::Protocol("the list does not end"))
    }

    /// Sends exactly one writing request, whatever comes back.
    pub async fn write(
        &self,
        method: Method,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<Answer, ProviderError> {
        self.admit(UNITS).await?;
        self.admit(WRITES).await?;
        let token = self.tokens.get().await?;
        let request = self.egress.request(method, &self.url(path)).json(body);
        let answer = self.send(UNITS.0, &token, request).await?;
        self.held(WRITES.0, &answer);
        if answer.status == 401 {
            self.tokens.discard(&token).await;
        }
        Ok(answer)
    }

    async fn send(
        &self,
        bucket: &'static str,
        token: &Arc<Token>,
        request: RequestBuilder,
    ) -> Result<Answer, ProviderError> {
        let mut bearer = http::HeaderValue::from_str(&token.bearer())
            .map_err(|_| ProviderError::Protocol("the token is not a header value"))?;
        bearer.set_sensitive(true);
        let request = request.header(http::header::AUTHORIZATION, bearer);
        let answer = egress::send(request.header(http::header::ACCEPT, "application/json")).await?;
        let cost = answer.header("x-ms-resource-unit").and_then(|units| units.trim().parse::<u32>().ok());
        // Units are of one quota only; reports are counted by the call.
        if bucket == UNITS.0 {
            self.pace.spend(bucket, cost.unwrap_or(1).saturating_sub(1));
        }
        self.held(bucket, &answer);
        Ok(answer)
    }

    async fn admit(&self, (bucket, quota): (&'static str, Quota)) -> Result<(), ProviderError> {
        self.pace.admit(bucket, Some(quota), self.share).await
    }

    /// Leaves a bucket alone for as long as an answer asks, or for a while if most of it is used up.
    fn held(&self, bucket: &'static str, answer: &Answer) {
        let length = match (answer.status, answer.asks_for_patience()) {
            (_, Some(length)) => length,
            (429, None) => UNTOLD,
            _ => {
                let used = answer.header("x-ms-throttle-limit-percentage");
                eased(used.and_then(|used| used.trim().parse().ok()).unwrap_or_default())
            }
        };
        self.pace.hold(bucket, length, Instant::now());
    }
}

/// How long to ease off when this part of the quota is used: told from 0.8 on, up to 1.8 (entra.md §7.1).
fn eased(used: f64) -> Duration {
    Duration::from_secs_f64(if used.is_finite() { (used - 0.8).clamp(0.0, 1.0) * 10.0 } else { 0.0 })
}

/// Graph's error body, tolerant where Graph varies (entra.md §7.2).
#[derive(Deserialize, Default)]
struct Body {
    error: Details,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Details {
    pub code: String,
    message: serde_json::Value,
}

impl Details {
    pub fn of(answer: &Answer) -> Self {
        serde_json::from_slice::<Body>(&answer.body).unwrap_or_default().error
    }

    /// Whether the message contains a phrase: for the few cases the code does not tell apart. It is never passed on.
    pub fn says(&self, phrase: &str) -> bool {
        let text = self.message.as_str().or_else(|| self.message.get("value")?.as_str());
        text.is_some_and(|text| text.contains(phrase))
    }
}

/// What an answer other than the expected one means.
pub(super) fn error(answer: &Answer) -> ProviderError {
    if let Some(trouble) = answer.trouble() {
        return trouble;
    }
    let details = Details::of(answer);
    match (answer.status, details.code.as_str()) {
        (410, _) | (_, "Directory_ExpiredPageToken" | "syncStateNotFound" | "resyncRequired") => {
            ProviderError::CursorExpired
        }
        (401, _) => ProviderError::Refused(Missing {
            reason: "token_refused",
            message: "Microsoft Graph refuses a fresh access token: check the cloud and the machine's clock."
                .into(),
            not_granted: false,
        }),
        (403, code) => ProviderError::Refused(forbidden(code, &details)),
        (404, _) => ProviderError::Protocol("there is no such object"),
        (300..=399, _) => ProviderError::Protocol("an unexpected redirect"),
        _ => ProviderError::Protocol("an unexpected status"),
    }
}

/// A 403 is a missing licence or a missing permission, told apart by code or text (entra.md §7.2).
fn forbidden(code: &str, details: &Details) -> Missing {
    let unlicensed =
        code == "Authentication_RequestFromNonPremiumTenantOrB2CTenant" || details.says("not licensed");
    if unlicensed {
        Missing {
            reason: "licence_missing",
            message: "The tenant's licence does not include this feature (Entra ID P1 or P2).".into(),
            not_granted: true,
        }
    } else {
        Missing {
            reason: "consent_missing",
            message: "The application lacks an application permission, or admin consent for it.".into(),
            not_granted: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_end_of_the_quota_the_longer_the_pause() {
        assert_eq!(eased(0.0), Duration::ZERO);
        assert_eq!(eased(0.8), Duration::ZERO);
        assert_eq!(eased(1.3).as_secs(), 5);
        assert_eq!(eased(99.0), Duration::from_secs(10));
        assert_eq!(eased(f64::NAN), Duration::ZERO);
    }
}
