//! Reading a caller's access token.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use super::{Claims, IssuerKeys, algorithm, claims::Mapping};
use crate::{config::OidcConfig, error::ApiError};

const LEEWAY_SECONDS: u64 = 30;
const LONGEST_TOKEN: usize = 16 * 1024;

pub(super) const INVALID: ApiError =
    ApiError::Unauthenticated { reason: "TOKEN_INVALID", message: "the access token is not valid here" };

/// Checks tokens against the pinned issuer, audience and algorithms.
#[derive(Clone, Debug)]
pub struct Verifier {
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
    claims: Mapping,
    keys: Arc<IssuerKeys>,
}

impl Verifier {
    /// With the issuer's keys.
    pub fn new(config: &OidcConfig, keys: Arc<IssuerKeys>) -> Self {
        Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            algorithms: config.algorithms.iter().filter_map(|name| algorithm(name)).collect(),
            claims: Mapping::new(config),
            keys,
        }
    }

    /// What a token says, if it is valid.
    pub async fn verify(&self, token: &str) -> Result<Claims, ApiError> {
        if token.len() > LONGEST_TOKEN {
            return Err(INVALID);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| INVALID)?;
        // RFC 9068 access tokens say at+jwt; issuers that predate it say JWT or nothing. An ID token or another kind
        // of object is no access token.
        let kind = header.typ.as_deref().map(str::to_ascii_lowercase);
        if !matches!(kind.as_deref(), None | Some("jwt" | "at+jwt" | "application/at+jwt")) {
            return Err(INVALID);
        }
        // INVARIANT: the algorithm is one of ours before a key is looked at.
        if !self.algorithms.contains(&header.alg) {
            return Err(INVALID);
        }
        let Some(key) = self.keys.find(&header.kid.ok_or(INVALID)?).await else {
            return Err(if self.keys.fetched() {
                INVALID
            } else {
                ApiError::Unavailable("the token issuer's keys are not there yet")
            });
        };
        if key.algorithm.is_some_and(|only| only != header.alg) {
            return Err(INVALID);
        }
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS;
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, &key.decoding, &validation).map_err(
            |e| match e.kind() {
                ErrorKind::ExpiredSignature => ApiError::Unauthenticated {
                    reason: "TOKEN_EXPIRED",
                    message: "the access token has expired",
                },
                _ => INVALID,
            },
        )?;
        self.claims.read(&token.claims)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use jsonwebtoken::{
        EncodingKey, Header,
        jwk::{Jwk, JwkSet},
    };
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://login.acme.example";

    /// An issuer with one key, and a verifier that has fetched it.
    fn issuer(algorithms: &[&str]) -> (EncodingKey, Jwk, Verifier) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some("k1".into());
        let config = OidcConfig {
            issuer: ISSUER.into(),
            audience: "parapet".into(),
            algorithms: algorithms.iter().map(|&name| name.to_owned()).collect(),
            ..OidcConfig::default()
        };
        let keys = IssuerKeys::with(&config, &JwkSet { keys: vec![jwk.clone()] });
        (key, jwk, Verifier::new(&config, keys))
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn good() -> Value {
        json!({"iss": ISSUER, "aud": "parapet", "sub": "ann", "exp": now() + 600, "roles": ["viewer"]})
    }

    fn header(typ: Option<&str>) -> Header {
        Header { kid: Some("k1".into()), typ: typ.map(str::to_owned), ..Header::new(Algorithm::ES256) }
    }

    fn reason(answer: &Result<Claims, ApiError>) -> &'static str {
        match answer {
            Ok(_) => "admitted",
            Err(ApiError::Unauthenticated { reason, .. }) => reason,
            Err(_) => "another failure",
        }
    }

    #[tokio::test]
    async fn a_token_of_another_issuer_audience_time_or_kind_is_refused() {
        let (key, _, verifier) = issuer(&["ES256"]);
        let answer = async |change: &dyn Fn(&mut Value), typ| {
            let mut claims = good();
            change(&mut claims);
            let token = jsonwebtoken::encode(&header(typ), &claims, &key).unwrap();
            reason(&verifier.verify(&token).await)
        };
        let typ = Some("at+jwt");
        assert_eq!(answer(&|_| {}, typ).await, "admitted", "control");
        assert_eq!(answer(&|c| c["iss"] = json!("https://login.evil.example"), typ).await, "TOKEN_INVALID");
        assert_eq!(answer(&|c| c["aud"] = json!("another-api"), typ).await, "TOKEN_INVALID");
        assert_eq!(answer(&|c| c["aud"] = json!(["another-api", "parapet"]), typ).await, "admitted");
        assert_eq!(answer(&|c| c["exp"] = json!(now() - 31), typ).await, "TOKEN_EXPIRED");
        assert_eq!(
            answer(&|c| c["exp"] = json!(now() - 20), typ).await,
            "admitted",
            "clocks differ a little"
        );
        assert_eq!(answer(&|c| c["nbf"] = json!(now() + 60), typ).await, "TOKEN_INVALID");
        for claim in ["iss", "aud", "sub", "exp"] {
            let without = |c: &mut Value| drop(c.as_object_mut().unwrap().remove(claim));
            assert_eq!(answer(&without, typ).await, "TOKEN_INVALID", "without {claim}");
        }
        assert_eq!(answer(&|_| {}, Some("logout+jwt")).await, "TOKEN_INVALID");
        assert_eq!(answer(&|_| {}, Some("JWT")).await, "admitted");
    }

    #[tokio::test]
    async fn a_token_is_signed_with_a_listed_algorithm_by_a_key_of_the_issuer() {
        let (key, jwk, verifier) = issuer(&["ES256"]);
        let good_token = jsonwebtoken::encode(&header(None), &good(), &key).unwrap();
        assert_eq!(reason(&verifier.verify(&good_token).await), "admitted", "control");

        // The public key is public: used as a secret it must sign nothing.
        let point = serde_json::to_vec(&jwk).unwrap();
        for (alg, secret) in [(Algorithm::HS256, point.as_slice()), (Algorithm::HS512, b"k")] {
            let head = Header { alg, ..header(None) };
            let forged = jsonwebtoken::encode(&head, &good(), &EncodingKey::from_secret(secret)).unwrap();
            assert_eq!(reason(&verifier.verify(&forged).await), "TOKEN_INVALID");
        }
        let (head, rest) = good_token.split_once('.').unwrap();
        let none = "eyJhbGciOiJub25lIiwia2lkIjoiazEifQ"; // {"alg":"none","kid":"k1"}
        assert_ne!(head, none);
        let unsigned = format!("{none}.{}.", rest.split_once('.').unwrap().0);
        assert_eq!(reason(&verifier.verify(&unsigned).await), "TOKEN_INVALID");

        let (stranger, ..) = issuer(&["ES256"]);
        let foreign = jsonwebtoken::encode(&header(None), &good(), &stranger).unwrap();
        assert_eq!(reason(&verifier.verify(&foreign).await), "TOKEN_INVALID");

        // What the deployment does not list is refused, however well it is signed.
        let (key, _, narrow) = issuer(&["RS256"]);
        let unlisted = jsonwebtoken::encode(&header(None), &good(), &key).unwrap();
        assert_eq!(reason(&narrow.verify(&unlisted).await), "TOKEN_INVALID");
    }
}
