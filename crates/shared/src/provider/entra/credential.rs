//! What an application proves itself with: a client secret, or a certificate whose key signs an assertion
//! (entra.md §2).

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    rsa::KeyPair,
    signature::{KeyPair as _, RSA_PSS_SHA256},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::{provider::ProviderError, secret::SecretBytes};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long an assertion is good. Made for one request.
const ASSERTION_LIFE: Duration = Duration::minutes(10);
/// How every PEM file begins. No client secret does: secrets hold no spaces.
const PEM: &str = "-----BEGIN ";
/// Least strength of a key, in bytes of its modulus.
const LEAST_MODULUS: usize = 256;

/// Why a certificate cannot be used. The text is for the person who gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No certificate.
    #[error("the PEM holds no certificate; give the certificate and its private key in one file")]
    NoCertificate,
    /// No key.
    #[error("the PEM holds no private key; give the certificate and its private key in one file")]
    NoKey,
    /// Encrypted key.
    #[error("the private key is encrypted; decrypt it first (openssl pkey -in key.pem -out plain.pem)")]
    Encrypted,
    /// Not RSA, or broken.
    #[error("the private key is not a usable RSA key; Entra ID needs RSA with 2048 bits or more")]
    NotRsa,
    /// Key of another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// Past its end.
    #[error("the certificate has expired; make a new one and upload it to the application")]
    Expired,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate {
    key: KeyPair,
    /// `x5t#S256`: base64url of SHA-256 over the certificate.
    thumbprint: String,
    /// The end of its validity.
    pub not_after: OffsetDateTime,
}

impl Certificate {
    /// Reads certificate and private key from PEM, in any order; further certificates of a chain are ignored.
    pub fn read(pem: &str) -> Result<Self, CertificateError> {
        if pem.contains("ENCRYPTED") {
            return Err(CertificateError::Encrypted);
        }
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError::NoCertificate)?;
        let key = match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(key)) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Pkcs1(key)) => KeyPair::from_der(key.secret_pkcs1_der()),
            Ok(_) => return Err(CertificateError::NotRsa),
            Err(_) => return Err(CertificateError::NoKey),
        };
        let key = key.map_err(|_| CertificateError::NotRsa)?;
        if key.public_modulus_len() < LEAST_MODULUS {
            return Err(CertificateError::NotRsa);
        }
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| CertificateError::NoCertificate)?;
        if *certificate.public_key().subject_public_key.data != *key.public_key().as_ref() {
            return Err(CertificateError::Mismatch);
        }
        let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &der));
        let not_after = certificate.validity().not_after.to_datetime();
        Ok(Self { key, thumbprint, not_after })
    }

    /// The same, refused when it is past its end.
    pub fn read_valid(pem: &str, now: OffsetDateTime) -> Result<Self, CertificateError> {
        let read = Self::read(pem)?;
        if read.not_after > now { Ok(read) } else { Err(CertificateError::Expired) }
    }

    /// A fresh assertion: each is good once.
    fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        now: OffsetDateTime,
    ) -> Result<String, ProviderError> {
        let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint});
        let issued = now.unix_timestamp();
        let claims = json!({"aud": audience, "iss": client_id, "sub": client_id, "jti": Uuid::new_v4(),
            "iat": issued, "nbf": issued, "exp": (now + ASSERTION_LIFE).unix_timestamp()});
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PSS_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
            .map_err(|_| ProviderError::NotSent("the certificate's key cannot sign"))?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(&signature)))
    }
}

/// Form fields that prove an application; empty for a public one.
pub(super) type Proof = Vec<(&'static str, Zeroizing<Vec<u8>>)>;

/// What an application proves itself with.
#[derive(Debug)]
pub(super) enum Credential {
    /// The value of a client secret.
    Secret(SecretBytes),
    /// A certificate.
    Certificate(Box<Certificate>),
}

impl Credential {
    /// Reads what an integration keeps: PEM is a certificate with its key, everything else a client secret.
    pub fn read(stored: SecretBytes) -> Result<Self, CertificateError> {
        match stored.expose_str().filter(|text| text.starts_with(PEM)) {
            Some(pem) => Certificate::read(pem).map(|read| Self::Certificate(Box::new(read))),
            None => Ok(Self::Secret(stored)),
        }
    }

    /// The fields of a token request that prove the application.
    pub fn fields(&self, client_id: &str, audience: &str) -> Result<Proof, ProviderError> {
        Ok(match self {
            Self::Secret(secret) => {
                vec![("client_secret", Zeroizing::new(secret.expose().to_vec()))]
            }
            Self::Certificate(certificate) => {
                let assertion = certificate.assertion(client_id, audience, OffsetDateTime::now_utc())?;
                vec![
                    ("client_assertion_type", Zeroizing::new(ASSERTION_TYPE.into())),
                    ("client_assertion", Zeroizing::new(assertion.into_bytes())),
                ]
            }
        })
    }

    /// The characters by which the tenant lists a client secret; a certificate has none.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Secret(secret) => Some(secret.expose_str()?.chars().take(3).collect()),
            Self::Certificate(_) => None,
        }
    }

    /// The end of a certificate.
    pub fn not_after(&self) -> Option<OffsetDateTime> {
        match self {
            Self::Secret(_) => None,
            Self::Certificate(certificate) => Some(certificate.not_after),
        }
    }

    /// Whether this is the id of a client secret, pasted in place of its value.
    pub fn is_secret_id(&self) -> bool {
        matches!(self, Self::Secret(secret)
            if secret.expose_str().is_some_and(|text| Uuid::try_parse(text).is_ok()))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
    use rcgen::{CertificateParams, KeyPair as Key};

    use super::*;

    fn made(days: i64) -> (String, String) {
        let key = Key::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["parapet".into()]).unwrap();
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
        params.not_before = OffsetDateTime::now_utc() - Duration::days(365);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn an_assertion_is_signed_with_pss_names_its_certificate_and_is_never_made_twice() {
        let (certificate, key) = made(30);
        for pem in [format!("{certificate}{key}"), format!("{key}\n{certificate}")] {
            let read = Certificate::read(&pem).unwrap();
            let now = OffsetDateTime::now_utc();
            let jwt = read.assertion("app", "https://login/x", now).unwrap();
            assert_ne!(jwt, read.assertion("app", "https://login/x", now).unwrap());
            let (input, signature) = jwt.rsplit_once('.').unwrap();
            let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
            UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, read.key.public_key().as_ref())
                .verify(input.as_bytes(), &decode(signature))
                .unwrap();
            let part = |at: usize| -> serde_json::Value {
                serde_json::from_slice(&decode(input.split('.').nth(at).unwrap())).unwrap()
            };
            assert_eq!(
                (&part(0)["alg"], &part(0)["x5t#S256"]),
                (&"PS256".into(), &read.thumbprint.clone().into())
            );
            assert_eq!(
                (&part(1)["iss"], &part(1)["sub"], &part(1)["aud"]),
                (&"app".into(), &"app".into(), &"https://login/x".into())
            );
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_reason() {
        let ((certificate, key), (other, _)) = (made(30), made(30));
        let ec = Key::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        for (pem, expected) in [
            (certificate.clone(), CertificateError::NoKey),
            (key.clone(), CertificateError::NoCertificate),
            (format!("{other}{key}"), CertificateError::Mismatch),
            (format!("{certificate}{ec}"), CertificateError::NotRsa),
            (
                format!("{certificate}{}", key.replace("PRIVATE", "ENCRYPTED PRIVATE")),
                CertificateError::Encrypted,
            ),
        ] {
            assert_eq!(Certificate::read(&pem).unwrap_err(), expected, "{pem}");
        }
        let (certificate, key) = made(-1);
        let expired = Certificate::read_valid(&format!("{certificate}{key}"), OffsetDateTime::now_utc());
        assert_eq!(expired.unwrap_err(), CertificateError::Expired);
    }

    #[test]
    fn a_secret_is_told_from_a_certificate_and_from_its_own_id() {
        let read = |text: &str| Credential::read(SecretBytes::new(text.as_bytes().to_vec())).unwrap();
        assert!(read("44444444-5555-4666-8777-888888888888").is_secret_id());
        assert!(!read("Zx8Q~secret").is_secret_id());
        let (certificate, key) = made(30);
        assert!(matches!(read(&format!("{certificate}{key}")), Credential::Certificate(_)));
        let shown = format!("{:?}", read(&format!("{certificate}{key}")));
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
