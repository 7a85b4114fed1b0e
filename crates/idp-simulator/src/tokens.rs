//! Access tokens: signed JWTs, opaque to callers by contract, checked by us on every call.

use std::fmt;

use anyhow::Context as _;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::Value;

/// Signs and checks tokens with a key that lives as long as the process.
pub struct Issuer {
    signing: EncodingKey,
    checking: DecodingKey,
    key_id: String,
    modulus: String,
    exponent: String,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Issuer {
    /// A fresh 2048-bit RSA key.
    pub fn generate() -> anyhow::Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048).context("RSA key")?;
        let private = pair.as_der().context("RSA key")?;
        let public = pair.public_key();
        let modulus = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
        let exponent = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
        Ok(Self {
            signing: EncodingKey::from_rsa_pem(pem(private.as_ref()).as_bytes())?,
            checking: DecodingKey::from_rsa_components(&modulus, &exponent)?,
            key_id: uuid::Uuid::new_v4().simple().to_string(),
            modulus,
            exponent,
        })
    }

    /// Signs claims with RS256 and a `typ` of the caller's choice.
    pub fn sign(&self, typ: &str, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing).unwrap_or_default()
    }

    /// Signs under a header of the test's choice.
    #[cfg(test)]
    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let header: Header = serde_json::from_value(header.clone()).unwrap();
        jsonwebtoken::encode(&header, claims, &self.signing).unwrap()
    }

    /// Claims of a token we signed; expiry and audience are the caller's business, since the simulator has its own clock.
    pub fn open(&self, token: &str) -> Option<Value> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Value>(token, &self.checking, &validation).ok().map(|data| data.claims)
    }

    /// The public key as a JSON web key set.
    pub fn jwks(&self) -> Value {
        serde_json::json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.key_id,
            "n": self.modulus, "e": self.exponent}]})
    }
}

/// A claim that is a time, in whole seconds: JSON numbers with a fraction count too (RFC 7519 §2).
#[expect(clippy::cast_possible_truncation, reason = "whole seconds are meant, and out of range saturates")]
pub fn numeric_date(claims: &Value, name: &str) -> Option<i64> {
    let value = claims.get(name)?;
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64))
}

/// PKCS#8 as PEM: the only form of it that the JWT library reads (its DER is PKCS#1).
fn pem(pkcs8: &[u8]) -> String {
    let text = STANDARD.encode(pkcs8);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_with_a_fraction_of_a_second_is_a_time() {
        let claims = serde_json::json!({"exp": 1_700_000_000.75, "nbf": 1_700_000_000, "iat": "soon"});
        let date = |name| numeric_date(&claims, name);
        assert_eq!((date("exp"), date("nbf")), (Some(1_700_000_000), Some(1_700_000_000)));
        assert_eq!((date("iat"), date("none")), (None, None));
    }

    #[test]
    fn a_token_that_was_signed_here_opens_here_and_nowhere_else() {
        let (ours, theirs) = (Issuer::generate().unwrap(), Issuer::generate().unwrap());
        let claims = serde_json::json!({"sub": "x"});
        let token = ours.sign("JWT", &claims);
        assert_eq!(ours.open(&token), Some(claims));
        assert_eq!(theirs.open(&token), None);
    }
}
