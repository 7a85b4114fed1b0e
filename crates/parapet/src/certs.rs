//! The local stack's certificates: one authority, one certificate for each service and server, one for the simulator.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::servers::write_private;

/// How the services know each other.
pub const SERVICE_DOMAIN: &str = "parapet.internal";

/// The names under which the providers answer, as the simulator does in their place.
const PROVIDER_NAMES: [&str; 7] = [
    "login.microsoftonline.com",
    "graph.microsoft.com",
    "*.okta.com",
    "*.oktapreview.com",
    "*.okta-emea.com",
    // The custom domain of an org.
    "login.acme.example",
    "localhost",
];

/// The servers of the stack that services meet over TLS.
const SERVERS: [&str; 2] = ["postgres", "rabbitmq"];

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct CertifiedFiles {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The local authority and what it signed.
#[derive(Debug, Clone)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes what `dir` lacks: the authority, a certificate for each of `services` and of the servers, one for the
    /// simulator.
    pub fn prepare(dir: &Path, services: &[&str]) -> anyhow::Result<Self> {
        let certificates = Self { dir: dir.to_owned() };
        let authority = certificates.authority()?;
        for service in services.iter().chain(&SERVERS) {
            let names = vec![service_name(service), "localhost".to_owned(), "127.0.0.1".to_owned()];
            certificates.leaf(&authority, service, names)?;
        }
        certificates.leaf(&authority, "idp-simulator", PROVIDER_NAMES.map(str::to_owned).to_vec())?;
        Ok(certificates)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The certificate of a service, of a server (`postgres`, `rabbitmq`), or of `idp-simulator`.
    pub fn of(&self, name: &str) -> CertifiedFiles {
        CertifiedFiles {
            cert: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}-key.pem")),
        }
    }

    fn authority(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let files = (self.ca(), self.dir.join("ca-key.pem"));
        if let (Ok(cert), Ok(key)) = (std::fs::read_to_string(&files.0), std::fs::read_to_string(&files.1)) {
            let key = KeyPair::from_pem(&key)
                .context("the local authority's key is damaged; `parapet clean` helps")?;
            return Issuer::from_ca_cert_pem(&cert, key)
                .context("the local authority is damaged; `parapet clean` helps");
        }
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Parapet local development authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, Duration::days(3650));
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write_private(&files.1, authority.key().serialize_pem().as_bytes())?;
        write_private(&files.0, authority.pem().as_bytes())?;
        let key = KeyPair::from_pem(&authority.key().serialize_pem())?;
        Ok(Issuer::from_ca_cert_pem(&authority.pem(), key)?)
    }

    fn leaf(&self, authority: &Issuer<'_, KeyPair>, name: &str, names: Vec<String>) -> anyhow::Result<()> {
        let files = self.of(name);
        if files.cert.exists() && files.key.exists() {
            return Ok(());
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, Duration::days(825));
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, authority)?;
        write_private(&files.key, key.serialize_pem().as_bytes())?;
        write_private(&files.cert, cert.pem().as_bytes())
    }
}

/// The name in a service's certificate, and the one its callers expect.
pub fn service_name(service: &str) -> String {
    format!("{service}.{SERVICE_DOMAIN}")
}

fn valid_for(params: &mut CertificateParams, span: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + span;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_keeps_every_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let first = Certificates::prepare(dir.path(), &["integration-api"]).unwrap();
        let before = std::fs::read(first.of("integration-api").cert).unwrap();
        let second = Certificates::prepare(dir.path(), &["integration-api", "audit-writer"]).unwrap();
        assert_eq!(std::fs::read(second.of("integration-api").cert).unwrap(), before);
        assert!(second.of("audit-writer").cert.exists());
    }
}
