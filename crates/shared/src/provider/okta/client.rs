//! One authorised call to the org's management API.

use std::{sync::Arc, time::Instant};

use http::Method;

use super::{
    failure,
    host::is_official,
    keys::SigningKey,
    rate,
    rotation::Lease,
    token::{Token, TokenSource},
};
use crate::provider::{
    ProviderError,
    http::{self as wire, Answer, Egress},
    pace::{Pace, Share},
};

/// Lists come faster without what we do not read (§3.1); yes, on Content-Type.
const LEAN: &str = "application/json; okta-response=omitCredentialsLinks,omitTransitioningToStatus";

pub(super) struct Client {
    host: String,
    egress: Egress,
    tokens: TokenSource,
    pace: Arc<Pace>,
    share: Share,
}

impl Client {
    pub(super) fn new(host: String, client_id: &str, kid: &str, key: SigningKey, egress: Egress) -> Self {
        let tokens = TokenSource::new(&host, client_id, kid, key, egress.clone());
        Self { host, egress, tokens, pace: Arc::default(), share: Share::WHOLE }
    }

    pub(super) fn paced(self, pace: Arc<Pace>, share: Share) -> Self {
        Self { pace, share, ..self }
    }

    pub(super) fn with_unproven_key(self) -> Self {
        Self { tokens: self.tokens.with_unproven_key(), ..self }
    }

    pub(super) fn leased(self, lease: Arc<Lease>) -> Self {
        Self { tokens: self.tokens.leased(lease), ..self }
    }

    /// Asks for a new access token, whatever is kept.
    pub(super) async fn prove(&self) -> Result<(), ProviderError> {
        self.tokens.request().await.map(drop)
    }

    pub(super) fn share(&self) -> Share {
        self.share
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn client_id(&self) -> &str {
        self.tokens.client_id()
    }

    pub(super) async fn token(&self) -> Result<Arc<Token>, ProviderError> {
        self.tokens.get().await
    }

    /// The org's time in epoch seconds.
    pub(super) fn server_time(&self) -> i64 {
        self.tokens.server_time()
    }

    /// Reads; every status but 200 is an error.
    pub(super) async fn get(&self, bucket: &'static str, path: &str) -> Result<Answer, ProviderError> {
        let answer = self.call(Method::GET, bucket, path).await?;
        if answer.status == 200 { Ok(answer) } else { Err(failure::of(&answer)) }
    }

    /// Calls `path` (with its query) and returns whatever the API says behind its OAuth layer.
    ///
    /// Sends again in two cases only, once each, both of which prove that the first request was not carried out: the
    /// OAuth layer found the token dead, or wanted a nonce.
    pub(super) async fn call(
        &self,
        method: Method,
        bucket: &'static str,
        path: &str,
    ) -> Result<Answer, ProviderError> {
        self.admitted(self.share, method, bucket, path, None).await
    }

    /// The same with another share of the bucket than the integration's.
    pub(super) async fn call_within(
        &self,
        share: Share,
        method: Method,
        bucket: &'static str,
        path: &str,
    ) -> Result<Answer, ProviderError> {
        self.admitted(share, method, bucket, path, None).await
    }

    /// The same with a body.
    pub(super) async fn call_with(
        &self,
        method: Method,
        bucket: &'static str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<Answer, ProviderError> {
        self.admitted(self.share, method, bucket, path, Some(body)).await
    }

    async fn admitted(
        &self,
        share: Share,
        method: Method,
        bucket: &'static str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, ProviderError> {
        self.pace.admit(bucket, None, share).await?;
        let (mut renewed, mut nonced) = (false, false);
        loop {
            let token = self.tokens.get().await?;
            let answer = self.send(&method, path, body, &token).await?;
            self.learn(bucket, &answer);
            if !nonced && failure::wants_nonce(&answer) {
                nonced = true;
            } else if !renewed && failure::token_is_dead(&answer) {
                self.tokens.forget(&token).await;
                renewed = true;
            } else {
                return Ok(answer);
            }
        }
    }

    /// Takes a place in a bucket's window, after a short pause if it is nearly used up.
    pub(super) async fn admit(&self, bucket: &'static str) -> Result<(), ProviderError> {
        self.pace.admit(bucket, None, self.share).await
    }

    /// Learns from an answer how full a bucket is.
    pub(super) fn learn(&self, bucket: &'static str, answer: &Answer) {
        rate::learn(&self.pace, bucket, answer, Instant::now());
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&serde_json::Value>,
        token: &Token,
    ) -> Result<Answer, ProviderError> {
        let url = format!("https://{}{path}", self.host);
        let mut request = self
            .egress
            .request(method.clone(), &url)
            .header("accept", "application/json")
            .header("content-type", LEAN);
        match body {
            Some(body) => request = request.body(body.to_string()),
            None if method != Method::GET => request = request.header("content-length", "0"), // or 411
            None => {}
        }
        let answer = wire::send(self.tokens.authorise(request, method, &url, token)?).await?;
        self.tokens.learn_from_api(&answer);
        Ok(answer)
    }

    /// A call without a token: the well-known documents and the probe of the sign-in endpoint.
    pub(super) async fn anonymous(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, ProviderError> {
        let url = format!("https://{}{path}", self.host);
        let mut request = self.egress.request(method, &url).header("accept", "application/json");
        if let Some(body) = body {
            request = request.json(body);
        }
        wire::send(request).await
    }

    /// The path and query of a link the org gave us, if it leads to `path` on the host we called.
    ///
    /// INVARIANT: a link never takes our token to another host: only its path and query are used.
    pub(super) fn follow(&self, link: &str, path: &str) -> Result<String, ProviderError> {
        let elsewhere = ProviderError::Protocol("a link leads elsewhere");
        let Ok(url) = url::Url::parse(link) else { return Err(elsewhere) };
        // Under a custom domain the org may spell links with its own name.
        let own = |host: &str| host == self.host || !is_official(&self.host) && is_official(host);
        if url.scheme() != "https"
            || !url.host_str().is_some_and(own)
            || url.port().is_some()
            || url.path() != path
        {
            return Err(elsewhere);
        }
        Ok(url.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::http::EgressConfig;

    #[test]
    fn links_are_followed_only_within_the_configured_host_and_path() {
        let key = SigningKey::generate().unwrap();
        let egress = Egress::new(&EgressConfig::default()).unwrap();
        let client = Client::new("acme.okta.com".into(), "0oa1", "kid", key, egress);
        let follow = |link: &str| client.follow(link, "/api/v1/users").ok();
        assert_eq!(
            follow("https://acme.okta.com/api/v1/users?after=200u&limit=200").as_deref(),
            Some("/api/v1/users?after=200u&limit=200")
        );
        for bad in [
            "https://evil.example/api/v1/users?after=1",
            "https://acme-admin.okta.com/api/v1/users?after=1",
            "http://acme.okta.com/api/v1/users?after=1",
            "https://acme.okta.com:8443/api/v1/users?after=1",
            "https://acme.okta.com@evil.example/api/v1/users",
            "https://acme.okta.com/api/v1/logs?after=1",
            "https://acme.okta.com/api/v1/users/../logs",
            "/api/v1/users?after=1",
            "",
        ] {
            assert_eq!(follow(bad), None, "{bad}");
        }
    }
}
