//! A request as the provider code sees it, and its answer: read whole, addressed to one of the providers' surfaces.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::Value;

use crate::faults::Fault;

/// Which of the providers' hosts a request is addressed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The Entra ID login host of a cloud.
    EntraLogin,
    /// The Microsoft Graph host of a cloud.
    Graph,
    /// The host of one Okta org, by subdomain or custom domain.
    Okta(String),
}

/// One request, its body read.
#[derive(Clone, Debug)]
pub struct Request {
    /// The surface it is addressed to.
    pub surface: Surface,
    /// The surface's root as the caller addressed it, without a trailing slash: every link in an answer starts with it.
    pub base: String,
    /// Method.
    pub method: Method,
    /// Path below `base`, still percent-encoded, starting with a slash.
    pub path: String,
    /// Query as it came, without the question mark.
    pub query: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Who connected.
    pub peer: SocketAddr,
}

/// The answer to a request, and the fault to apply to it, if one was waiting.
#[derive(Debug)]
pub struct Answer {
    /// What the directory says.
    pub response: Response<Bytes>,
    /// What happens to it on the way.
    pub fault: Option<Fault>,
}

impl From<Response<Bytes>> for Answer {
    fn from(response: Response<Bytes>) -> Self {
        Self { response, fault: None }
    }
}

impl Request {
    /// Decoded path segments below `base`.
    pub fn segments(&self) -> Vec<String> {
        self.path.split('/').filter(|s| !s.is_empty()).map(decode).collect()
    }

    /// First value of a query parameter.
    pub fn param(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// First value of a header, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Credentials of the Authorization header when it has this scheme.
    pub fn authorization(&self, scheme: &str) -> Option<&str> {
        let (given, credentials) = self.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        given.eq_ignore_ascii_case(scheme).then_some(credentials.trim())
    }

    /// Fields of a form body.
    pub fn form(&self) -> Form {
        Form(url::form_urlencoded::parse(&self.body).into_owned().collect())
    }

    /// JSON body; `None` when it is not JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The full URL of a path below `base`.
    pub fn link(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// Fields of a form body.
#[derive(Clone)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// A field that is present and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// Percent-decodes one path segment (a plus stays a plus).
pub fn decode(segment: &str) -> String {
    let protected = segment.replace('+', "%2B");
    url::form_urlencoded::parse(format!("={protected}").as_bytes())
        .next()
        .map_or_else(String::new, |(_, v)| v.into_owned())
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-cache, no-store"));
    response
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// Sets a header when both name and value can be one.
pub fn set_header(response: &mut Response<Bytes>, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) =
        (http::HeaderName::try_from(name.to_ascii_lowercase()), http::HeaderValue::from_str(value))
    {
        response.headers_mut().append(name, value);
    }
}
