//! Client key pairs: RSA 2048, PKCS#8, named by their RFC 7638 thumbprint, published as a JWKS (§1.3).

use aws_lc_rs::{
    digest,
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::secret::SecretBytes;

/// A key could not be made, read or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the RSA key is unusable")]
pub struct KeyError;

/// A fresh client key pair.
#[derive(Clone, Debug)]
pub struct ClientKey {
    /// Key id: the RFC 7638 thumbprint.
    pub kid: String,
    /// The private half, PKCS#8 DER; seal it.
    pub pkcs8: SecretBytes,
    /// The public half, for the JWKS document.
    pub public: PublicJwk,
}

/// The public half of a client key: only public members exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicJwk {
    /// Always `RSA`.
    pub kty: String,
    /// Public exponent, base64url.
    pub e: String,
    /// Modulus, base64url.
    pub n: String,
    /// Key id.
    pub kid: String,
    /// Always `sig`.
    #[serde(rename = "use")]
    pub usage: String,
    /// Always `RS256`.
    pub alg: String,
}

/// Makes a key pair. Takes up to a second of one core: call it on a blocking thread.
pub fn generate() -> Result<ClientKey, KeyError> {
    let key = SigningKey::generate()?;
    let pkcs8 = key.pair.as_der().map_err(|_| KeyError)?;
    let public = key.public();
    Ok(ClientKey { kid: public.kid.clone(), pkcs8: SecretBytes::new(pkcs8.as_ref().to_vec()), public })
}

/// The JWKS document over public keys: what `/.well-known/{integration}/jwks.json` serves.
pub fn jwks(keys: &[PublicJwk]) -> Value {
    serde_json::json!({ "keys": keys })
}

/// An RSA key that signs JWTs with RS256.
pub(super) struct SigningKey {
    pair: KeyPair,
    e: String,
    n: String,
}

impl SigningKey {
    pub(super) fn generate() -> Result<Self, KeyError> {
        Ok(Self::new(KeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError)?))
    }

    pub(super) fn open(pkcs8: &[u8]) -> Result<Self, KeyError> {
        Ok(Self::new(KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError)?))
    }

    fn new(pair: KeyPair) -> Self {
        let public = pair.public_key();
        let e = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
        let n = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
        Self { pair, e, n }
    }

    /// RFC 7638: SHA-256 over the required members in lexical order.
    pub(super) fn thumbprint(&self) -> String {
        let canonical = format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, self.e, self.n);
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }

    fn public(&self) -> PublicJwk {
        PublicJwk {
            kty: "RSA".into(),
            e: self.e.clone(),
            n: self.n.clone(),
            kid: self.thumbprint(),
            usage: "sig".into(),
            alg: "RS256".into(),
        }
    }

    /// The bare public key, as a DPoP proof's header carries it.
    pub(super) fn proof_jwk(&self) -> Value {
        serde_json::json!({"kty": "RSA", "e": self.e, "n": self.n})
    }

    /// A compact JWS over claims.
    pub(super) fn jwt(&self, header: &Value, claims: &Value) -> Result<String, KeyError> {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(header), encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
            .map_err(|_| KeyError)?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(&signature)))
    }
}

/// Base64url of SHA-256, the form of `ath` in a DPoP proof (RFC 9449 §4.2).
pub(super) fn sha256(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};

    #[test]
    fn a_generated_key_signs_what_its_published_half_verifies() {
        let made = generate().unwrap();
        let key = SigningKey::open(made.pkcs8.expose()).unwrap();
        let jwt = key.jwt(&serde_json::json!({"alg": "RS256"}), &serde_json::json!({"iss": "a"})).unwrap();
        let (input, signature) = jwt.rsplit_once('.').unwrap();
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let public = RsaPublicKeyComponents { n: decode(&made.public.n), e: decode(&made.public.e) };
        public.verify(&RSA_PKCS1_2048_8192_SHA256, input.as_bytes(), &decode(signature)).unwrap();
        assert_eq!(decode(&made.public.n).len(), 256, "2048 bits");
        assert_eq!(made.kid, key.thumbprint());
    }

    #[test]
    fn the_published_document_holds_public_members_only() {
        let made = generate().unwrap();
        let document = jwks(std::slice::from_ref(&made.public));
        let members: Vec<&String> = document["keys"][0].as_object().unwrap().keys().collect();
        assert_eq!(members, ["alg", "e", "kid", "kty", "n", "use"]);
    }

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_7638() {
        // The example of RFC 7638 §3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let key = SigningKey { e: "AQAB".into(), n: n.into(), ..SigningKey::generate().unwrap() };
        assert_eq!(key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn debug_output_never_contains_the_private_half() {
        assert!(format!("{:?}", generate().unwrap()).contains("pkcs8: SecretBytes(..)"));
    }
}
