//! JWTs that callers sign: client assertions and DPoP proofs.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use crate::tokens::numeric_date;

/// A JWT taken apart, its signature not checked yet.
pub struct Jwt<'a> {
    /// Header.
    pub header: Value,
    /// Claims.
    pub claims: Value,
    text: &'a str,
}

/// Algorithms Okta accepts.
const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
];

impl<'a> Jwt<'a> {
    /// Takes it apart.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut part =
            || -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok() };
        let (header, claims) = (part()?, part()?);
        (parts.count() == 1).then_some(Self { header, claims, text })
    }

    /// A member of the header as text.
    pub fn head(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    /// A claim as text.
    pub fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    /// A claim as a time.
    pub fn number(&self, name: &str) -> Option<i64> {
        numeric_date(&self.claims, name)
    }

    /// The algorithm, when it is one Okta accepts.
    pub fn algorithm(&self) -> Option<Algorithm> {
        ALGORITHMS.iter().find(|(name, _)| Some(*name) == self.head("alg")).map(|row| row.1)
    }

    /// Whether this public key signed it. Times are the caller's business: the simulator has its own clock.
    pub fn signed_by(&self, key: &Value) -> bool {
        let Some(algorithm) = self.algorithm() else { return false };
        let Ok(key) = serde_json::from_value::<Jwk>(key.clone()) else { return false };
        let Ok(key) = DecodingKey::from_jwk(&key) else { return false };
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Value>(self.text, &key, &validation).is_ok()
    }
}

/// RFC 7638 thumbprint of a public key.
pub fn thumbprint(key: &Value) -> Option<String> {
    let member = |name: &str| key.get(name)?.as_str();
    let canonical = match member("kty")? {
        "RSA" => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, member("e")?, member("n")?),
        "EC" => format!(
            r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#,
            member("crv")?,
            member("x")?,
            member("y")?
        ),
        _ => return None,
    };
    Some(sha256(&canonical))
}

/// Base64url of SHA-256.
pub fn sha256(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}
