//! The one way services talk HTTP to directories: timeouts everywhere, no redirects, no hidden retries, capped
//! answers, filtered addresses.
//!
//! Password submissions do not come through here but through [`super::attempt`], which cannot even pool a connection.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use ipnet::IpNet;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    Missing, ProviderError,
    okta::host::ApprovedDomains,
    resolver::{FixedAddress, Resolver},
};
use crate::service::Faults;

/// The largest answer of a directory that is read, in bytes: 999 Graph users with every property stay under 4 MiB.
pub const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// How traffic leaves for the directories. Deployment configuration, never part of a request (design §9).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressConfig {
    /// PEM file with extra trusted certificate authorities.
    pub extra_ca: Option<PathBuf>,
    /// Explicit HTTPS proxy, `http://host:port`. The environment's proxy variables are never read.
    pub proxy: Option<url::Url>,
    /// Maps host suffixes to fixed addresses: the only exemption from the address filter, for local stacks.
    pub resolve: Vec<FixedAddress>,
    /// Networks that no directory's name may resolve into, besides all that are not globally reachable: pods, services and
    /// nodes where they have public addresses, for example `["203.1.0.0/16"]`.
    pub deny: Vec<IpNet>,
    /// Approved custom domains of Okta orgs, for example `["login.acme.com"]`. Set the same for integration-api.
    pub okta_domains: ApprovedDomains,
}

impl EgressConfig {
    /// Adds what is wrong with it.
    pub fn check(&self, faults: &mut Faults, path: &str) {
        if let Some(file) = &self.extra_ca {
            faults.require_file(file, &format!("{path}.extra_ca"));
        }
        let proxied = self.proxy.as_ref().is_none_or(is_proxy);
        faults.require(proxied, &format!("{path}.proxy"), "must be http://host:port");
    }
}

fn is_proxy(url: &url::Url) -> bool {
    url.scheme() == "http" && url.port_or_known_default().is_some()
}

/// The egress configuration could not be put to use.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The extra CA file cannot be read as PEM certificates.
    #[error("idp.extra_ca {path}: not a readable PEM file of certificates")]
    ExtraCa {
        /// The file.
        path: PathBuf,
    },
    /// The client could not be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
    /// The proxy is not an `http://host:port` URL.
    #[error("idp.proxy must be http://host:port")]
    Proxy,
    /// TLS configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Egress, ready for use; cheap to clone.
#[derive(Clone, Debug)]
pub struct Egress {
    client: reqwest::Client,
    resolver: Resolver,
    tls: Arc<ClientConfig>,
    proxy: Option<url::Url>,
    okta_domains: ApprovedDomains,
}

impl Egress {
    /// Reads the CA file and builds the client.
    pub fn new(config: &EgressConfig) -> Result<Self, EgressError> {
        Self::with(config, Resolver::new(&config.resolve, &config.deny))
    }

    pub(super) fn with(config: &EgressConfig, resolver: Resolver) -> Result<Self, EgressError> {
        let roots = roots(config)?;
        let tls =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
        let mut client_tls = tls.clone();
        client_tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(client_tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .dns_resolver(resolver.clone())
            .user_agent(USER_AGENT)
            .no_proxy();
        if let Some(proxy) = &config.proxy {
            if !is_proxy(proxy) {
                return Err(EgressError::Proxy);
            }
            builder = builder.proxy(reqwest::Proxy::all(proxy.clone())?);
        }
        let mut tls = tls;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            client: builder.build()?,
            resolver,
            tls: Arc::new(tls),
            proxy: config.proxy.clone(),
            okta_domains: config.okta_domains.clone(),
        })
    }

    /// Starts a request. The URL must be https; its host must come from the provider's host list.
    pub fn request(&self, method: http::Method, url: &str) -> reqwest::RequestBuilder {
        self.client.request(method, url)
    }

    pub(super) fn resolver(&self) -> &Resolver {
        &self.resolver
    }
    pub(super) fn tls(&self) -> &Arc<ClientConfig> {
        &self.tls
    }
    pub(super) fn okta_domains(&self) -> &ApprovedDomains {
        &self.okta_domains
    }
    pub(super) fn proxy(&self) -> Option<&url::Url> {
        self.proxy.as_ref()
    }
}

/// Names us to directories and in the customer's sign-in logs.
pub const USER_AGENT: &str =
    concat!("Parapet/", env!("CARGO_PKG_VERSION"), " (identity exposure management)");

fn roots(config: &EgressConfig) -> Result<RootCertStore, EgressError> {
    let mut roots = RootCertStore::empty();
    // A machine without a CA bundle still works with an extra CA alone; a directory is then simply untrusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &config.extra_ca {
        let bad = || EgressError::ExtraCa { path: path.clone() };
        let mut found = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|_| bad())? {
            roots.add(certificate.map_err(|_| bad())?).map_err(|_| bad())?;
            found += 1;
        }
        if found == 0 {
            return Err(bad());
        }
    }
    Ok(roots)
}

/// An answer, read whole and capped.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: http::HeaderMap,
    /// Body, at most [`ANSWER_LIMIT`] bytes.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ProviderError> {
        serde_json::from_slice(&self.body).map_err(|_| ProviderError::Protocol("not the expected JSON"))
    }
    /// For how long a 429 asks to be left alone, or a 503, if they say so.
    pub fn asks_for_patience(&self) -> Option<Duration> {
        let hint = || retry_after(&self.headers, OffsetDateTime::now_utc());
        matches!(self.status, 429 | 503).then(hint).flatten()
    }

    /// The error that a throttle or an outage is, whatever was asked.
    pub fn trouble(&self) -> Option<ProviderError> {
        match (self.status, self.asks_for_patience()) {
            (429, retry_after) | (503, retry_after @ Some(_)) => {
                Some(ProviderError::Throttled { retry_after })
            }
            (status @ 500.., _) => Some(ProviderError::Unavailable { status }),
            _ => None,
        }
    }

    /// The provider's id of the request, for its support: Graph, the login host, Okta. Only of their shape: what is
    /// stored and shown must not be free text from outside.
    pub fn request_id(&self) -> Option<String> {
        let mut ids = REQUEST_IDS.iter().filter_map(|name| self.header(name));
        let plain = |id: &&str| {
            id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'@'))
        };
        ids.next().filter(plain).map(str::to_owned)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A body as a JSON object; `None` for anything else. What proves something about a password is read like this: serde
/// also reads a struct from an array, by position, and passes over broken text in members that are not read.
pub(super) fn object<T: serde::de::DeserializeOwned>(body: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(body).ok()?;
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())?
}

const REQUEST_IDS: [&str; 3] = ["request-id", "x-ms-request-id", "x-okta-request-id"];

/// Sends exactly one request and reads the answer, however it turned out.
pub async fn send(request: reqwest::RequestBuilder) -> Result<Answer, ProviderError> {
    let (client, request) = request.build_split();
    let request = request.map_err(|_| ProviderError::NotSent("request not built"))?;
    named_host(request.url())?;
    let response = client.execute(request).await.map_err(|e| {
        // The error's text holds the URL; only its kind is kept.
        if e.is_connect() {
            not_connected(&e)
        } else if e.is_builder() {
            ProviderError::NotSent("request not built")
        } else if e.is_timeout() {
            ProviderError::Lost("timeout")
        } else {
            ProviderError::Lost("connection broke off")
        }
    })?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = BytesMut::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ProviderError::Lost("answer broke off"))?;
        if body.len() + chunk.len() > ANSWER_LIMIT {
            return Err(ProviderError::Protocol("answer too large"));
        }
        body.extend_from_slice(&chunk);
    }
    let answer = Answer { status, headers, body: body.freeze() };
    if matches!(status, 400..=403 | 429 | 500..) {
        let request_id = answer.request_id().unwrap_or_default();
        tracing::info!(status, provider.request_id = request_id, "a directory refused a call");
    }
    Ok(answer)
}

/// INVARIANT: what leaves goes to a name, over TLS, at the port of HTTPS. The resolver's filter is never asked about an
/// address that stands in the URL itself, in whatever spelling (reliability §4.7).
fn named_host(url: &url::Url) -> Result<(), ProviderError> {
    let is_name = |name: &str| {
        name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    };
    let plain = url.scheme() == "https"
        && url.port().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && matches!(url.host(), Some(url::Host::Domain(name)) if is_name(name));
    plain.then_some(()).ok_or(ProviderError::NotSent(NO_NAME))
}

/// What kept a connection from coming about, as far as the layers below tell.
fn not_connected(error: &reqwest::Error) -> ProviderError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut tunnelled = false;
    while let Some(error) = cause {
        // The resolver's own word, which hyper hands through.
        if let Some(ProviderError::NotSent(why)) = error.downcast_ref() {
            return ProviderError::NotSent(why);
        }
        if error.is::<rustls::Error>() {
            return ProviderError::NotSent(UNTRUSTED);
        }
        // Its type is private to hyper-util; its words are all there is. Below it lies what kept us from the proxy.
        tunnelled |= error.to_string().contains("tunnel");
        if tunnelled && error.is::<std::io::Error>() {
            return ProviderError::NotSent(PROXY_AWAY);
        }
        // An I/O error is what it wraps: its own `source` leaves that out.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = wrapped
            .map_or_else(|| error.source(), |wrapped| Some(wrapped as &(dyn std::error::Error + 'static)));
    }
    ProviderError::NotSent(if tunnelled { PROXY_REFUSES } else { NO_CONNECTION })
}

pub(super) const NO_CONNECTION: &str = "no connection";
pub(super) const UNTRUSTED: &str = "TLS failed: the certificate is not trusted";
pub(super) const UNRESOLVED: &str = "the host name does not resolve";
pub(super) const PRIVATE: &str = "the host name resolves to a private address";
pub(super) const NO_NAME: &str = "only names of hosts are called, over HTTPS and at its own port";
pub(super) const PROXY_REFUSES: &str = "the proxy refused the tunnel";
pub(super) const PROXY_AWAY: &str = "the proxy is unreachable";

/// Each fault of the network with a stable reason and what to do about it.
const NETWORK: &[(&str, &str, &str)] = &[
    (UNTRUSTED, "tls_untrusted", "if a proxy inspects TLS here, give its authority as idp.extra_ca"),
    (UNRESOLVED, "name_unresolved", "check the name, and the DNS of the machine the worker runs on"),
    (PRIVATE, "address_refused", "a directory on a private address has to be named in idp.resolve"),
    (NO_NAME, "address_refused", "give the directory's host as a plain name"),
    (PROXY_REFUSES, "proxy_refused", "let the proxy pass the provider's hosts"),
    (PROXY_AWAY, "proxy_unreachable", "check idp.proxy"),
    (NO_CONNECTION, "unreachable", "let the worker reach the provider's hosts on port 443, or set idp.proxy"),
];

impl ProviderError {
    /// The error as what is missing, for a person who sets up a connection.
    pub fn into_missing(self) -> Missing {
        let told = format!("the test could not be completed: {self}");
        let (reason, message) = match self {
            Self::Refused(missing) => return missing,
            Self::NotSent(why) => match NETWORK.iter().find(|row| row.0 == why) {
                Some((_, reason, advice)) => (*reason, format!("{told}; {advice}")),
                None => ("unreachable", told),
            },
            Self::Lost(_) => ("answer_lost", told),
            Self::Throttled { .. } | Self::Paced { .. } => ("throttled", told),
            Self::Unavailable { .. } => ("unavailable", told),
            Self::CursorExpired | Self::Protocol(_) => ("protocol", told),
        };
        Missing { reason, message, not_granted: false }
    }
}

impl Missing {
    /// Whether the network or a busy moment of the directory may be all that is wrong: true of everything but a
    /// refusal ([`ProviderError::Refused`]).
    pub fn may_pass(&self) -> bool {
        ["unreachable", "answer_lost", "throttled", "unavailable", "protocol"].contains(&self.reason)
            || NETWORK.iter().any(|(_, reason, _)| *reason == self.reason)
    }
}

/// `Retry-After` in every spelling seen: whole or fractional seconds, or an HTTP date. Clamped to 1 s ..= 1 h.
fn retry_after(headers: &http::HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => (http_date(text)? - now).as_seconds_f64(),
    };
    seconds.is_finite().then(|| Duration::from_secs_f64(seconds.clamp(1.0, 3600.0)))
}

/// A date as HTTP headers spell it (RFC 9110 §5.6.7, the one form servers may still send).
pub fn http_date(text: &str) -> Option<OffsetDateTime> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    Some(time::PrimitiveDateTime::parse(text, format).ok()?.assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_every_spelling_and_clamped() {
        let now = time::macros::datetime!(2026-01-05 10:00:00 UTC);
        let read = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("10"), Some(Duration::from_secs(10)));
        assert_eq!(read("2.128"), Some(Duration::from_secs_f64(2.128)));
        assert_eq!(read("Mon, 05 Jan 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("999999999"), Some(Duration::from_hours(1)));
        assert_eq!(read("-5"), Some(Duration::from_secs(1)));
        assert_eq!(read("soon"), None);
        assert_eq!(read("NaN"), None);
    }
}
