//! What may stand where a token or a key set is expected, for the fuzz targets.

use std::sync::OnceLock;

use futures::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::JwkSet};

use super::{IssuerKeys, Verifier, claims::Mapping};
use crate::config::OidcConfig;

/// A set with one key, whose private half is not kept.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"k",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

static VERIFIER: OnceLock<Verifier> = OnceLock::new();

fn verifier() -> Verifier {
    let config = OidcConfig {
        issuer: "https://issuer.example".into(),
        audience: "parapet".into(),
        ..OidcConfig::default()
    };
    let set = serde_json::from_str(KEYS).unwrap_or(JwkSet { keys: Vec::new() });
    Verifier::new(&config, IssuerKeys::with(&config, &set))
}

/// Reads bytes as a token, as a token's claims and as a key set.
///
/// # Panics
///
/// When a reader does, or something nobody signed is accepted.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let verifier = VERIFIER.get_or_init(verifier);
    // No key is fetched, so that nothing waits.
    let valid = |token: &str| matches!(verifier.verify(token).now_or_never(), Some(Ok(_)));
    assert!(!valid(text), "a token that nobody signed is valid");
    // Signed with a symmetric key that anybody can make from the public set.
    if let Ok(claims) = serde_json::from_str::<serde_json::Value>(text) {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k".into());
        let signed = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(KEYS.as_bytes()));
        assert!(!signed.is_ok_and(|signed| valid(&signed)), "a token signed with a public key is valid");
        if let serde_json::Value::Object(claims) = &claims
            && let Ok(read) = Mapping::new(&OidcConfig::default()).read(claims)
        {
            assert!(!read.subject.is_empty() && read.subject.len() <= 300, "a caller without a name");
        }
    }
    if let Ok(set) = serde_json::from_str::<JwkSet>(text) {
        super::jwks::fuzzed(&set);
    }
}
